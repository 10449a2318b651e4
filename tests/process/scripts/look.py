"""Says whom it finds by the mark that it carries itself: `look.py PACKAGE MARK`."""

import subprocess
import sys

sys.path.insert(0, sys.argv[1])

from jetwatch.process.tree import Family

child = subprocess.Popen(["/bin/sleep", "60"], env={})
try:
    print([process.pid for process in Family(root=None, leader=None, mark=sys.argv[2], cgroup=None).members()])
finally:
    child.kill()
    child.wait()
