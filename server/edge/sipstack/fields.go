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

// fieldNameOf knows the names in any case (s.7.3.1), without a copy of them.
func fieldNameOf(name string) (field, string) {
	is := func(known string) bool { return strings.EqualFold(name, known) }
	switch len(name) {
	case 1:
		return compactName(name)
	case 2:
		if is("To") {
			return toField, "To"
		}
	case 3:
		if is("Via") {
			return viaField, "Via"
		}
	case 4:
		if is("From") {
			return fromField, "From"
		}
		if is("CSeq") {
			return cseqField, "CSeq"
		}
	case 5:
		if is("Route") {
			return listed, "Route"
		}
	case 7:
		if is("Call-ID") {
			return callIDField, "Call-ID"
		}
		if is("Contact") {
			return listed, "Contact"
		}
	case 12:
		if is("Max-Forwards") {
			return forwardsField, "Max-Forwards"
		}
		if is("Content-Type") {
			return typeField, "Content-Type"
		}
		if is("Record-Route") {
			return listed, "Record-Route"
		}
	case 14:
		if is("Content-Length") {
			return lengthField, "Content-Length"
		}
	}
	return other, name
}

// compactName reads the forms of one letter, in either case.
func compactName(name string) (field, string) {
	switch name[0] | 0x20 {
	case 'v':
		return viaField, "Via"
	case 'f':
		return fromField, "From"
	case 't':
		return toField, "To"
	case 'i':
		return callIDField, "Call-ID"
	case 'm':
		return listed, "Contact"
	case 'l':
		return lengthField, "Content-Length"
	case 'c':
		return typeField, "Content-Type"
	}
	return other, longName(name)
}

// longName expands the compact forms registered with IANA that the core doesn't have as
// members.
func longName(name string) string {
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
