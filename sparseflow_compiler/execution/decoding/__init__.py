"""Generate tokens: a static cache, and a step that chooses the next token on the device, as one program."""
