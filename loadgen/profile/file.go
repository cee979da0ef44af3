package profile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFile is how large a profile, or a file with a secret, may be, in bytes.
const maxFile = 1 << 20

// Read reads a YAML file into p. Paths in it are relative to its directory. What is not known
// is refused with its line and what is allowed.
func (p *Profile) Read(path string) error {
	text, err := readFile(path)
	if err != nil {
		return err
	}
	p.dir = filepath.Dir(path)
	defer func() { p.dir = "" }()
	if err := p.parse(text); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for i := range p.Arrivals {
		if err := p.Arrivals[i].read(p.dir); err != nil {
			return fmt.Errorf("%s: arrivals, entry %d: %w", path, i+1, err)
		}
	}
	return nil
}

// below is a path that is relative to a directory, unless it says where it begins.
func below(dir, path string) string {
	if dir == "" || filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

func (p *Profile) parse(text []byte) error {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		var wrong yaml.Error
		if errors.As(err, &wrong) && wrong.GetToken() != nil {
			return fmt.Errorf("line %d: %s", wrong.GetToken().Position.Line, wrong.GetMessage())
		}
		return errors.New("is not YAML")
	}
	if len(file.Docs) > 1 {
		return fmt.Errorf("one YAML document is allowed, here are %d", len(file.Docs))
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return errors.New("is empty")
	}
	return fill(file.Docs[0].Body, "", p.keys())
}

func at(node ast.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %w", node.GetToken().Position.Line, fmt.Errorf(format, args...))
}

// fill sets the keys from a mapping; prefix is the path to it.
func fill(node ast.Node, prefix string, keys []key) error {
	var entries []*ast.MappingValueNode
	switch node := node.(type) {
	case *ast.MappingNode:
		entries = node.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{node}
	default:
		return at(node, "keys and values are allowed here, as in `to: sip:5000@example.com`")
	}
	for _, entry := range entries {
		name := prefix + entry.Key.GetToken().Value
		if err := assign(entry, name, keys); err != nil {
			return err
		}
	}
	return nil
}

func assign(entry *ast.MappingValueNode, name string, keys []key) error {
	var names []string
	group := false
	for _, k := range keys {
		if k.name == name {
			return k.take(entry)
		}
		names = append(names, k.name)
		group = group || strings.HasPrefix(k.name, name+".")
	}
	if group {
		return fill(entry.Value, name+".", keys)
	}
	return at(entry.Key, "%s is not a key%s; allowed are %s", name, meant(name, names), strings.Join(names, ", "))
}

// take sets one key: a value, a list of values, or a list of mappings.
func (k key) take(entry *ast.MappingValueNode) error {
	values := []ast.Node{entry.Value}
	list, isList := entry.Value.(*ast.SequenceNode)
	if isList {
		values = list.Values
	}
	for _, v := range values {
		if k.items != nil {
			if err := fill(v, "", k.items()); err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
			continue
		}
		text, ok := scalar(v)
		if !ok || isList && k.name != "slo" {
			return at(v, "%s: one value is allowed", k.name)
		}
		if err := k.set(text); err != nil {
			return at(v, "%s: %w", k.name, err)
		}
	}
	return nil
}

func scalar(node ast.Node) (string, bool) {
	switch node := node.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return node.GetToken().Value, true
	case *ast.LiteralNode:
		return strings.TrimSpace(node.Value.Value), true
	}
	return "", false
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: larger than %d bytes", path, maxFile)
	}
	return text, err
}

// readSecret reads the first line of a file.
func readSecret(path string) (Secret, error) {
	text, err := readFile(path)
	line, _, _ := strings.Cut(string(text), "\n")
	line = strings.TrimRight(line, "\r")
	if err == nil && line == "" {
		err = fmt.Errorf("%s: its first line is empty", path)
	}
	return Secret(line), err
}

// meant is "; did you mean X?", where one of the names is near.
func meant(word string, names []string) string {
	best, least := "", max(2, len(word)/3+1)
	for _, name := range names {
		d := distance(word, name)
		if short := name[strings.LastIndexByte(name, '.')+1:]; short != name {
			d = min(d, distance(word, short)+1)
		}
		if d < least {
			best, least = name, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is the number of letters to change, add or remove (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := min(row[j]+1, row[j+1]+1, last)
			if a[i] != b[j] {
				next = min(row[j], row[j+1], last) + 1
			}
			last, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
