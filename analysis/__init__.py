"""Parquet rows -> tables and figures; needs neither torch nor Ray."""
