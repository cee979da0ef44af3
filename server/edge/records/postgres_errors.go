package records

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// failure is what is told of an error of the driver: its text, and which of our own errors
// it is. The driver's error itself is not passed on, for it holds the configuration and
// with it the password, for whoever unwraps it.
type failure struct {
	text string
	kind error // or nil
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.kind }

// explain says of an error where it happened and what can be done about it.
func (s *Postgres) explain(err error) error {
	if err == nil {
		return nil
	}
	kind, hint := classify(err)
	text := strings.Join(strings.Fields(err.Error()), " ") // the driver's go over several lines
	// The driver is not known to show the password. Should it come to do so, it ends here; one
	// that is also the user's name, say, is no secret.
	password, _ := s.password() // that it can't be read is the error then
	public := strings.Contains("postgres "+s.at.user+" "+s.at.String(), password.Reveal())
	if !public && strings.Contains(text, password.Reveal()) {
		text = "the cause is not shown, for it contains the password"
	}
	if kind != nil && !errors.Is(err, kind) {
		text = kind.Error() + ": " + text
	}
	if hint != "" {
		text += ": " + hint
	}
	return &failure{"records in PostgreSQL at " + s.at.String() + ": " + text, kind}
}

// classify finds which of our errors one of the driver's is, and what helps.
func classify(err error) (kind error, hint string) {
	for _, ours := range []error{ErrInvalid, ErrNewer, ErrDamaged, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, ours) {
			kind = ours
			break
		}
	}
	if known, ok := errors.AsType[*pgconn.PgError](err); ok {
		return classifyCode(known.Code, kind)
	}
	switch {
	case kind == ErrDamaged:
		return kind, restore
	case errors.Is(err, pgconn.ErrReadOnlyConnection):
		return kind, "none of the hosts can be written to; name the primary, or promote a standby"
	case untrusted(err):
		return kind, "name the authority that signed the server's certificate with sslrootcert, and the host as the certificate does"
	case strings.Contains(err.Error(), "require_auth"):
		return kind, "the server wants the password itself; it gets it only with sslmode=verify-full, otherwise use scram-sha-256 in pg_hba.conf"
	case strings.Contains(err.Error(), "server refused TLS"):
		return kind, "turn on ssl in postgresql.conf, or say sslmode=disable if the network is your own"
	case isAs[*fs.PathError](err):
		return kind, "check the path and its permissions"
	case isAs[net.Error](err), isAs[*pgconn.ConnectError](err), errors.Is(err, io.ErrUnexpectedEOF):
		return kind, "check that PostgreSQL runs there and can be reached"
	}
	return kind, ""
}

const restore = "restore it from a backup; what was not delivered yet is still in the outbox"

// classifyCode knows the codes of PostgreSQL's appendix A.
func classifyCode(code string, kind error) (error, string) {
	switch code {
	case "28P01", "28000":
		return kind, "check the user, the password and pg_hba.conf"
	case "3D000":
		return kind, "create it: CREATE DATABASE ... ENCODING 'UTF8'"
	case "42501":
		return kind, "let the user own the database: ALTER DATABASE ... OWNER TO ..."
	case "42P01", "3F000", "42703":
		return kind, "the tables are not as this program made them; restore them from a backup"
	case "25006":
		return kind, "this is a standby; name the primary, or all hosts, separated by commas"
	case "53100":
		return kind, "the disk of the database is full, free some space"
	case "53300":
		return kind, "raise max_connections: a node uses up to six"
	case "57P03":
		return kind, "it is starting or recovering"
	case "57014":
		return kind, "it was too slow: look at its disk and at locks that are held"
	case "XX001", "XX002":
		return ErrDamaged, restore
	}
	return kind, ""
}

// refused says that the values themselves were not accepted: too long for an index, not to
// be encoded. Another time brings no other answer.
func refused(err error) bool {
	known, ok := errors.AsType[*pgconn.PgError](err)
	return ok && slices.Contains([]string{"22", "23", "54"}, known.Code[:2])
}

// untrusted says that the server's certificate is not accepted.
func untrusted(err error) bool {
	return isAs[*tls.CertificateVerificationError](err) || isAs[x509.UnknownAuthorityError](err) ||
		isAs[x509.HostnameError](err) || isAs[x509.CertificateInvalidError](err)
}

// permanent says of an error at the start that no time will heal it.
func permanent(err error) bool {
	if known, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch known.Code[:2] {
		case "08", "53", "57": // the connection, resources, starting or shutting down
			return false
		}
		return known.Code != "25006" // a standby is promoted
	}
	return errors.Is(err, ErrNewer) || errors.Is(err, errEncoding) || untrusted(err)
}

func isAs[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
