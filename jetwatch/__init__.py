"""jetwatch: a pull agent that checks, downloads, applies, tells, and never loses a run."""
