package acd

// Lines returns how many lines a center keeps.
func Lines(c *Center) int { return len(c.lines) - len(c.freeLines) }
