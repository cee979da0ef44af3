package etcd

// Rough sizes of what etcd's encoding puts around keys and values.
const (
	aroundRequest = 32
	aroundOp      = 16
)

// valid refuses what etcd refuses for its form, before anything is proposed: in the order of
// v3rpc's checkTxnRequest and checkIntervals, and then for its size.
func (c *Cluster) valid(do Action) Error {
	switch a := do.(type) {
	case Range:
		if a.Key == "" {
			return ErrEmptyKey
		}
	case Txn:
		return c.validTxn(&a)
	}
	return ""
}

func (c *Cluster) validTxn(t *Txn) Error {
	if max(len(t.If), len(t.Then), len(t.Else)) > c.cfg.MaxOps {
		return ErrTooManyOps
	}
	size := aroundRequest
	for i := range t.If {
		if t.If[i].Key == "" {
			return ErrEmptyKey
		}
		size += len(t.If[i].Key) + len(t.If[i].Value) + aroundOp
	}
	for _, ops := range [2][]Op{t.Then, t.Else} {
		for i := range ops {
			if ops[i].Key == "" {
				return ErrEmptyKey
			}
			size += len(ops[i].Key) + len(ops[i].End) + len(ops[i].Value) + aroundOp
		}
	}
	for _, ops := range [2][]Op{t.Then, t.Else} {
		if c.twice(ops) {
			return ErrDuplicateKey
		}
	}
	if size > c.cfg.MaxBytes && !readOnly(t) {
		return ErrTooLarge // a read is not proposed, so nobody measures it
	}
	return ""
}

// twice reports whether a put of the branch has a key that another operation writes. Two
// deletions may overlap. The end "\x00" of a deletion is an empty interval to etcd here:
// such a deletion goes with any put.
func (c *Cluster) twice(ops []Op) bool {
	if len(ops) <= 8 {
		return twiceOfFew(ops)
	}
	clear(c.seen)
	ranges := 0
	for i := range ops {
		switch o := &ops[i]; {
		case o.Kind == Delete && o.End == "":
			c.seen[o.Key] = struct{}{}
		case o.Kind == Delete && o.End != "\x00":
			ranges++
		}
	}
	for i := range ops {
		o := &ops[i]
		if o.Kind != Put {
			continue
		}
		if _, ok := c.seen[o.Key]; ok {
			return true
		}
		c.seen[o.Key] = struct{}{}
		for j := 0; ranges > 0 && j < len(ops); j++ {
			if d := &ops[j]; d.Kind == Delete && d.End != "" && d.End != "\x00" && inside(o.Key, d.Key, d.End) {
				return true
			}
		}
	}
	return false
}

// twiceOfFew is the same without a map.
func twiceOfFew(ops []Op) bool {
	for i := range ops {
		for j := range i {
			a, b := &ops[i], &ops[j]
			if a.Kind == Delete {
				a, b = b, a
			}
			if a.Kind == Put && (b.Kind == Put || b.Kind == Delete && b.End != "\x00") && inside(a.Key, b.Key, b.End) {
				return true
			}
		}
	}
	return false
}

func readOnly(t *Txn) bool {
	for _, ops := range [2][]Op{t.Then, t.Else} {
		for i := range ops {
			if ops[i].Kind != Get {
				return false
			}
		}
	}
	return true
}

// reads reports whether an action is served without an entry in the log.
func reads(do Action) bool {
	switch a := do.(type) {
	case Range:
		return true
	case Txn:
		return readOnly(&a)
	}
	return false
}

// writes reports whether an action needs space: what the NOSPACE alarm refuses.
func writes(do Action) bool {
	switch a := do.(type) {
	case Grant:
		return true
	case Txn:
		// As etcd counts the cost: of the branch that costs more.
		for _, ops := range [2][]Op{a.Then, a.Else} {
			for i := range ops {
				if ops[i].Kind == Put {
					return true
				}
			}
		}
	}
	return false
}
