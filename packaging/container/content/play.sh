# The play of the example: it runs in the agent's container, where its download lies.
echo "applying revision $JETWATCH_REVISION"
