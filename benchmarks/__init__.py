"""actorjobs measured: alone, beside its peers, and as it grows. See README.md."""
