"""`actorjobs demo`: a signup file becomes welcome mails and webhooks, against servers that fail for a while."""
