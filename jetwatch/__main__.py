"""`python -m jetwatch` is `jetp`."""

from jetwatch.cli.main import main

main()
