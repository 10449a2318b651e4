"""jetwatch: a pull agent that checks, downloads, applies, tells, and never loses a run."""

__version__ = "0.1.0"
