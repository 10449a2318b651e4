#!/bin/sh
# Called after a run that ended otherwise, with its id: here one would call for help.
echo "run $1 ended with $JETWATCH_OUTCOME in $JETWATCH_FAILED_STEP" >&2
