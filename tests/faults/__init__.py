"""The fault cases F1 to F25 on RabbitMQ, judged by the history checker.

| case | where |
|---|---|
"""
