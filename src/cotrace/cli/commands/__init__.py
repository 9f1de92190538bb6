"""The commands, one file for what one person wants; each loads what it needs when it is called."""
