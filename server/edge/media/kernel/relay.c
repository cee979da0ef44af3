//go:build ignore

// Relays the RTP of plain bridges on the way in: a packet of a leg's peer gets the addresses,
// SSRC, sequence number, timestamp and payload type of the other leg's flow, and goes to that
// leg's peer. No process wakes up for it.
//
// There is one slot for each port pair, shared with the process by mmap. A slot is a small
// ownership machine; whoever swaps its owner from FREE may read and write it:
//
//	FREE   the kernel may relay; the state is whole
//	BUSY   a packet is being relayed, on some CPU, for less than a microsecond
//	TAKEN  the process has it, or nothing is to be relayed
//	WATCH  the process asks whether the peer's packets come this way, addressed as it
//	       knows them; if not, another program or a NAT stands between
//	SEEN   they do
//
// A packet that finds the slot not FREE, or is in any way out of the ordinary, goes up to
// the leg's socket as if there were no program. So the process takes a slot back by one
// compare-and-swap, and from then on no packet is in it nor will enter it. An unusual
// packet of the peer leaves the slot TAKEN, so that those behind it do not overtake it.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum { FREE = 0, BUSY = 1, TAKEN = 2, WATCH = 3, SEEN = 4 };

enum { NEXT = -1 }; // TCX_NEXT: the next program on this interface, or the way up

// Bounds of RFC 3550 A.1, as in the process.
enum { MAX_DROPOUT = 3000, MAX_MISORDER = 100 };

struct flow {
	__u32 owner;

	// What the process says. Addresses and ports as on the wire, the rest as the host counts.
	__u32 in_source, in_destination;
	__u32 out_source, out_destination;
	__u16 in_source_port;
	__u16 out_source_port, out_destination_port;
	__u16 shift_sequence; // added to the sequence number
	__u32 shift_time;     // added to the timestamp
	__u32 in_ssrc, out_ssrc;
	__u8 in_payload, out_payload;
	__u16 unused;
	__u32 interface; // out of which the packet goes; 0: to a socket of this machine
	__u32 clock;     // Hz
	__u64 birth;     // ns of CLOCK_MONOTONIC: the zero of all times below
	__u64 first;     // packets before this extended number belong to an earlier flow

	// What both keep. Extended numbers begin one cycle up.
	__u64 highest;
	__u64 packets, octets; // octets of payload
	__u64 last_at;         // ns; 0: no packet yet
	__u64 longest_gap;     // ns
	__u32 newest_time;     // RTP timestamp of the packet with the highest number
	__u32 transit;         // RFC 3550 A.8, in ticks
	__u32 has_transit;
	__u32 jitter; // in sixteenths of ticks
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); // set when loaded: one for each port pair
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

volatile const __u16 first_port; // of the range, even
volatile const __u32 pairs;

// The packet up to the end of a plain RTP header (no CSRCs, extension or padding).
struct packet {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	__u8 version, payload;
	__be16 sequence;
	__be32 time, ssrc;
} __attribute__((packed));

// replaced adds to a ones' complement sum what replacing a 32-bit word changes (RFC 1624).
static __always_inline __u64 replaced(__u64 sum, __u32 from, __u32 to)
{
	return sum + (__u32)~from + to;
}

static __always_inline __u32 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (__u32)((sum & 0xffffffff) + (sum >> 32));
}

static __always_inline __u32 pair_of(__be16 high, __be16 low)
{
	return (__u32)high | (__u32)low << 16;
}

// measure counts a packet as the process would: RFC 3550 A.1, A.3, A.8.
static __always_inline void measure(struct flow *f, __u64 extended, __u32 time, __u32 octets)
{
	__u64 now = bpf_ktime_get_ns() - f->birth;

	if (f->last_at && now > f->last_at && now - f->last_at > f->longest_gap)
		f->longest_gap = now - f->last_at;
	f->last_at = now;

	__u32 ticks = now / 1000000000 * f->clock + now % 1000000000 * f->clock / 1000000000;
	__u32 transit = ticks - time;
	if (f->has_transit) {
		__s32 d = transit - f->transit;
		if (d < 0)
			d = -d;
		f->jitter += d - ((f->jitter + 8) >> 4);
	}
	f->transit = transit;
	f->has_transit = 1;

	if (extended >= f->highest) {
		f->highest = extended;
		f->newest_time = time;
	}
	f->packets++;
	f->octets += octets;
}

static __always_inline int from_peer(struct flow *f, struct packet *p)
{
	return p->ip.saddr == f->in_source && p->udp.source == f->in_source_port && p->ip.daddr == f->in_destination;
}

// ordinary says whether a packet is an expected one of its flow, and finds its extended number.
static __always_inline int ordinary(struct flow *f, struct packet *p, __u32 length, __u64 *extended)
{
	if (p->version != 0x80 || length < sizeof(struct udphdr) + 12)
		return 0;
	if (bpf_ntohl(p->ssrc) != f->in_ssrc || (p->payload & 0x7f) != f->in_payload)
		return 0;
	__u16 step = bpf_ntohs(p->sequence) - (__u16)f->highest;
	if (step < MAX_DROPOUT)
		*extended = f->highest + step;
	else if (step > 65536 - MAX_MISORDER)
		*extended = f->highest - (__u16)-step;
	else
		return 0;
	return *extended >= f->first;
}

// readdress writes the other leg's addresses and RTP numbers into the packet.
static __always_inline void readdress(struct __sk_buff *skb, struct packet *p, struct flow *f)
{
	__be16 sequence = bpf_htons(bpf_ntohs(p->sequence) + f->shift_sequence);
	__be32 time = bpf_htonl(bpf_ntohl(p->time) + f->shift_time);
	__be32 ssrc = bpf_htonl(f->out_ssrc);
	__u8 payload = (p->payload & 0x80) | f->out_payload;

	// The pseudo header's part is told apart, for it is all that the checksum holds of a
	// packet which no hardware has completed yet (CHECKSUM_PARTIAL: loopback, veth).
	__u64 pseudo = replaced(replaced(0, p->ip.saddr, f->out_source), p->ip.daddr, f->out_destination);
	__u64 rest = replaced(0, pair_of(p->udp.source, p->udp.dest), pair_of(f->out_source_port, f->out_destination_port));
	rest = replaced(rest, pair_of((__u16)p->version | (__u16)p->payload << 8, p->sequence),
			pair_of((__u16)p->version | (__u16)payload << 8, sequence));
	rest = replaced(replaced(rest, p->time, time), p->ssrc, ssrc);

	p->ip.saddr = f->out_source;
	p->ip.daddr = f->out_destination;
	p->ip.tos = 0xb8; // DSCP EF (RFC 3246), as the process marks voice
	p->ip.ttl = 64;
	p->ip.check = 0;
	__u64 sum = 0;
	const __u16 *words = (const void *)&p->ip;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	p->ip.check = ~(__u16)(sum + (sum >> 16));

	p->udp.source = f->out_source_port;
	p->udp.dest = f->out_destination_port;
	p->payload = payload;
	p->sequence = sequence;
	p->time = time;
	p->ssrc = ssrc;

	// From here on the pointers into the packet are void. A checksum of 0 (none) stays.
	const int at = sizeof(struct ethhdr) + sizeof(struct iphdr) + offsetof(struct udphdr, check);
	bpf_l4_csum_replace(skb, at, 0, folded(pseudo), BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0);
	bpf_l4_csum_replace(skb, at, 0, folded(rest), BPF_F_MARK_MANGLED_0);
}

SEC("tcx/ingress")
int relay(struct __sk_buff *skb)
{
	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->vlan_present)
		return NEXT;
	struct packet *p = (void *)(long)skb->data;
	if ((void *)(p + 1) > (void *)(long)skb->data_end) {
		// A driver that leaves the headers in a page: worth the copy only for packets of that size.
		if (skb->len < sizeof(*p) || skb->len > 1600 || bpf_skb_pull_data(skb, sizeof(*p)))
			return NEXT;
		p = (void *)(long)skb->data;
		if ((void *)(p + 1) > (void *)(long)skb->data_end)
			return NEXT;
	}
	if (p->ip.version != 4 || p->ip.ihl != 5 || p->ip.protocol != IPPROTO_UDP)
		return NEXT;
	__u16 above = bpf_ntohs(p->udp.dest) - first_port;
	__u32 index = above >> 1;
	if (above & 1 || index >= pairs)
		return NEXT;
	__u32 length = bpf_ntohs(p->udp.len);
	if (p->ip.frag_off & bpf_htons(0x3fff) || skb->gso_segs > 1 ||
	    bpf_ntohs(p->ip.tot_len) != sizeof(struct iphdr) + length ||
	    skb->len < sizeof(struct ethhdr) + sizeof(struct iphdr) + length)
		return NEXT;

	struct flow *f = bpf_map_lookup_elem(&flows, &index);
	if (!f)
		return NEXT;
	if (f->owner == WATCH && from_peer(f, p))
		__sync_val_compare_and_swap(&f->owner, WATCH, SEEN);
	if (f->owner != FREE || __sync_val_compare_and_swap(&f->owner, FREE, BUSY) != FREE)
		return NEXT;
	__u64 extended = 0;
	__u32 interface = 0, next = FREE;
	int relayed = 0;
	if (from_peer(f, p)) {
		relayed = ordinary(f, p, length, &extended);
		next = relayed ? FREE : TAKEN;
	}
	if (relayed) {
		interface = f->interface;
		measure(f, extended, bpf_ntohl(p->time), length - sizeof(struct udphdr) - 12);
		readdress(skb, p, f);
	}
	__sync_lock_test_and_set(&f->owner, next);
	if (!interface)
		return NEXT; // up: to the leg's socket, or, readdressed, to the hearer's on this machine
	return bpf_redirect_neigh(interface, 0, 0, 0);
}

// Every helper above may be called by a program of any licence.
char __license[] SEC("license") = "Apache-2.0";
