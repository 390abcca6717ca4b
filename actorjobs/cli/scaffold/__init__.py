"""What `actorjobs make` writes: names are read, places are found, text is made, files are written, one module each."""
