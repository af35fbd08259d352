"""Reports: the same results as JUnit, SARIF, GitHub annotations, and a page for people."""
