"""jetp.pyz: unpacks itself once into a private environment and goes on there.

Libraries with C parts cannot be loaded from a zip, and the agent starts a Python of its own for its fetches: both want
a real directory. It lies in JETWATCH_UNPACK_DIR, else /var/cache/jetwatch for root, else ~/.cache/jetwatch.
"""

import os
import shutil
import stat
import sys
import tempfile
import zipfile


def main():
    """Unpack if this version was not yet, then become its `jetp`."""
    if sys.version_info < (3, 11):  # noqa: UP036 - any Python may be made to run it
        sys.exit("jetp.pyz needs Python 3.11 or newer, this is %s" % sys.version.split()[0])
    archive = os.path.dirname(os.path.abspath(__file__))
    with zipfile.ZipFile(archive) as packed:
        name = packed.read("BUILD").decode().strip() + "-" + sys.implementation.cache_tag
        home = os.path.join(_base(), name)
        python = os.path.join(home, "bin", "python")
        if not os.path.exists(python):
            _unpack(packed, home)
    for name in ("PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__"):  # which an isolated Python believes all the same
        os.environ.pop(name, None)
    os.execv(python, [python, "-I", "-m", "jetwatch", *sys.argv[1:]])


def _base():
    path = os.environ.get("JETWATCH_UNPACK_DIR")
    if not path and os.geteuid() == 0:
        path = "/var/cache/jetwatch"
    if not path:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        path = os.path.join(cache, "jetwatch")
    os.makedirs(path, mode=0o755, exist_ok=True)
    found = os.stat(path)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        sys.exit("%s: others may write here: name a directory of your own in JETWATCH_UNPACK_DIR" % path)
    return path


def _unpack(packed, home):
    building = tempfile.mkdtemp(dir=os.path.dirname(home), prefix=".unpacking-")
    try:
        os.chmod(building, 0o755)
        packed.extractall(building, [each for each in packed.namelist() if each.startswith("site/")])
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        library = os.path.join(building, "lib", "python%d.%d" % sys.version_info[:2])
        os.makedirs(library)
        os.symlink("../../site", os.path.join(library, "site-packages"))
        os.makedirs(os.path.join(building, "bin"))
        os.symlink(python, os.path.join(building, "bin", "python"))
        with open(os.path.join(building, "pyvenv.cfg"), "w") as config:
            config.write("home = %s\ninclude-system-site-packages = false\n" % os.path.dirname(python))
        shutil.rmtree(home, ignore_errors=True)  # one whose Python is gone
        os.rename(building, home)
    except OSError:
        shutil.rmtree(building, ignore_errors=True)
        if not os.path.exists(os.path.join(home, "bin", "python")):  # else another one was faster
            raise


main()
