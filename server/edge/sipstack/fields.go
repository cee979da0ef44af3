package sipstack

import "strings"

// field is what the edge does with a header field.
type field uint8

const (
	other field = iota
	listed
	viaField
	fromField
	toField
	callIDField
	cseqField
	typeField
	lengthField
	forwardsField
	nameCount
)

// mandatory are the fields without which a message can't be answered or matched. RFC 3261
// s.8.1.1 asks for Max-Forwards too, but older peers leave it out (RFC 4475 s.3.4).
var mandatory = [nameCount]string{
	viaField: "Via", fromField: "From", toField: "To", callIDField: "Call-ID", cseqField: "CSeq",
}

// fieldName returns what a header field is and its long name (RFC 3261 s.7.3.3). Unknown
// names stay as they were written.
func fieldName(name string) (field, string) {
	switch name { // as nearly everybody writes them: no conversion needed
	case "Via", "v":
		return viaField, "Via"
	case "From", "f":
		return fromField, "From"
	case "To", "t":
		return toField, "To"
	case "Call-ID", "i":
		return callIDField, "Call-ID"
	case "CSeq":
		return cseqField, name
	case "Contact", "m":
		return listed, "Contact"
	case "Content-Length", "l":
		return lengthField, "Content-Length"
	case "Max-Forwards":
		return forwardsField, name
	}
	return fieldNameOf(name)
}

func fieldNameOf(name string) (field, string) {
	switch strings.ToLower(name) {
	case "via", "v":
		return viaField, "Via"
	case "from", "f":
		return fromField, "From"
	case "to", "t":
		return toField, "To"
	case "call-id", "i":
		return callIDField, "Call-ID"
	case "cseq":
		return cseqField, "CSeq"
	case "contact", "m":
		return listed, "Contact"
	case "route":
		return listed, "Route"
	case "record-route":
		return listed, "Record-Route"
	case "content-length", "l":
		return lengthField, "Content-Length"
	case "content-type", "c":
		return typeField, "Content-Type"
	case "max-forwards":
		return forwardsField, "Max-Forwards"
	}
	return other, longName(name)
}

// longName expands the compact forms registered with IANA that the core doesn't have as
// members.
func longName(name string) string {
	if len(name) != 1 {
		return name
	}
	switch name[0] | 0x20 {
	case 'a':
		return "Accept-Contact"
	case 'b':
		return "Referred-By"
	case 'd':
		return "Request-Disposition"
	case 'e':
		return "Content-Encoding"
	case 'j':
		return "Reject-Contact"
	case 'k':
		return "Supported"
	case 'n':
		return "Identity-Info"
	case 'o':
		return "Event"
	case 'r':
		return "Refer-To"
	case 's':
		return "Subject"
	case 'u':
		return "Allow-Events"
	case 'x':
		return "Session-Expires"
	case 'y':
		return "Identity"
	}
	return name
}
