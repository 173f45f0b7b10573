"""What HTTP asks of the queues and how they answer: one table for both roads, and the road through Quart.

No other package imports quart.
"""
