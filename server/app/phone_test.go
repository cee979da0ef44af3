package app

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// register is the smallest phone: REGISTER, answer the MD5 challenge (RFC 2617 as RFC 8760
// keeps it), and return the final status.
func register(t *testing.T, server netip.AddrPort, user, password string) int {
	t.Helper()
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	local := conn.LocalAddr().String()
	exchange := func(cseq int, authorization string) string {
		request := fmt.Sprintf("REGISTER sip:%s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bK%s%d;rport\r\nMax-Forwards: 70\r\n"+
			"From: <sip:%s@%s>;tag=1\r\nTo: <sip:%s@%s>\r\nCall-ID: reg-%s@test\r\nCSeq: %d REGISTER\r\nContact: <sip:%s@%s>\r\nExpires: 300\r\n%sContent-Length: 0\r\n\r\n",
			demoDomain, local, local[strings.LastIndexByte(local, ':')+1:], cseq, user, demoDomain, user, demoDomain, local, cseq, user, local, authorization)
		if _, err := conn.Write([]byte(request)); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 4096)
		n, err := conn.Read(answer)
		if err != nil {
			t.Fatal(err)
		}
		return string(answer[:n])
	}
	challenge := regexp.MustCompile(`(?im)^WWW-Authenticate: Digest (.*algorithm="?MD5"?.*)$`).FindStringSubmatch(exchange(1, ""))
	if challenge == nil {
		t.Fatal("no MD5 challenge")
	}
	field := func(name string) string {
		found := regexp.MustCompile(name + `="([^"]*)"`).FindStringSubmatch(challenge[1])
		if found == nil {
			t.Fatalf("no %s in %s", name, challenge[1])
		}
		return found[1]
	}
	uri := "sip:" + demoDomain
	response := digestOf(digestOf(user+":"+field("realm")+":"+password) + ":" + field("nonce") + ":00000001:c:auth:" + digestOf("REGISTER:"+uri))
	answer := exchange(2, fmt.Sprintf("Authorization: Digest username=\"%s\", realm=\"%s\", nonce=\"%s\", uri=\"%s\", response=\"%s\", algorithm=MD5, qop=auth, nc=00000001, cnonce=\"c\"\r\n",
		user, field("realm"), field("nonce"), uri, response))
	status, err := strconv.Atoi(strings.Fields(answer)[1])
	if err != nil {
		t.Fatal(answer)
	}
	return status
}

func digestOf(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}
