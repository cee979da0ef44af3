package cluster

import "github.com/dialtone-cc/dialtone/server/core"

// Recorded returns under which incarnation this process's node is recorded now, 0 when it is
// not, and whether somebody has claimed it as View knows it, now or once. A lease that ends while etcd is
// away leaves a node without its record: if nobody claims it meanwhile, its store writes the
// record anew, and the process goes on (Reborn).
func (v *View) Recorded() (incarnation core.Revision, claimed bool) {
	if i, found := v.find(v.self.ID); found {
		incarnation = v.nodes[i].Incarnation
	}
	return incarnation, v.fenced
}

// Reborn goes on under a new incarnation.
func (v *View) Reborn(incarnation core.Revision) {
	v.self.Incarnation = incarnation
	v.attempts, v.dirty = nil, true
}
