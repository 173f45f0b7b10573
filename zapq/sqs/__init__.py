"""The dialect of Amazon's SQS: requests become operations, and outcomes its answers. No HTTP, no tasks."""
