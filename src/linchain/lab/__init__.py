"""Methods compared under one protocol: a plan, its runs, their statistics, and the report."""
