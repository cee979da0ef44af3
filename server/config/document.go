package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// document is a YAML file taken apart: its values by the path of their key, each with the
// place where it stands, for messages that point at it.
type document struct {
	path   string
	lines  []string
	values map[string]placed
	names  []string // of the known keys
	secret []string // last parts of the secret keys: lines with them are never shown
}

type placed struct {
	text     string
	position *token.Position
}

// readDocument reads a file and refuses what it does not know.
func readDocument(path string, keys []key) (*document, error) {
	content, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return nil, refuse("--config: %s", err)
	}
	return parseDocument(path, content, keys)
}

func parseDocument(path string, content []byte, keys []key) (*document, error) {
	d := &document{path: path, lines: strings.Split(string(content), "\n"), values: map[string]placed{}}
	for _, k := range keys {
		d.names = append(d.names, k.name)
		if k.secret {
			d.secret = append(d.secret, k.name[strings.LastIndexByte(k.name, '.')+1:])
		}
	}
	file, err := parser.ParseBytes(content, 0)
	if err != nil {
		var wrong yaml.Error
		if errors.As(err, &wrong) && wrong.GetToken() != nil {
			return nil, d.refuse(wrong.GetToken().Position, "%s", wrong.GetMessage())
		}
		return nil, refuse("%s: not YAML", path)
	}
	if len(file.Docs) > 1 {
		return nil, refuse("%s: one YAML document is allowed, here are %d", path, len(file.Docs))
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return d, nil
	}
	return d, d.walk("", file.Docs[0].Body)
}

func (d *document) walk(prefix string, node ast.Node) error {
	var entries []*ast.MappingValueNode
	switch node := node.(type) {
	case *ast.MappingNode:
		entries = node.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{node}
	default:
		return d.refuse(node.GetToken().Position, "keys and values are allowed here, as in `sip: 127.0.0.1:5060`")
	}
	for _, entry := range entries {
		at := entry.Key.GetToken().Position
		name := prefix + entry.Key.GetToken().Value
		if d.known(name) {
			text, ok := scalar(entry.Value)
			if !ok {
				return d.refuse(at, "%s: one value is allowed, or a list of them", name)
			}
			if entry.Value.GetToken().Position.Line == at.Line {
				at = entry.Value.GetToken().Position
			}
			d.values[name] = placed{text, at}
			continue
		}
		if !d.knownPrefix(name + ".") {
			message := fmt.Sprintf("%s is not a key", name)
			if near := Nearest(name, d.names); near != "" {
				message += "; did you mean " + near + "?"
			} else {
				message += "; allowed are " + strings.Join(d.names, ", ")
			}
			d.hideValue(at.Line)
			return d.refuse(at, "%s", message)
		}
		if err := d.walk(name+".", entry.Value); err != nil {
			return err
		}
	}
	return nil
}

// scalar returns the text of a plain value, or of a list of them joined by commas.
func scalar(node ast.Node) (string, bool) {
	switch node := node.(type) {
	case *ast.SequenceNode:
		var all []string
		for _, each := range node.Values {
			text, ok := scalar(each)
			if !ok {
				return "", false
			}
			all = append(all, text)
		}
		return strings.Join(all, ","), len(all) > 0
	case *ast.LiteralNode:
		return strings.TrimSpace(node.Value.Value), true
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return node.GetToken().Value, true
	}
	return "", false
}

func (d *document) known(name string) bool {
	for _, known := range d.names {
		if known == name {
			return true
		}
	}
	return false
}

func (d *document) knownPrefix(prefix string) bool {
	for _, known := range d.names {
		if strings.HasPrefix(known, prefix) {
			return true
		}
	}
	return false
}

// apply sets the key from the file, where the file has it.
func (d *document) apply(k key, cfg *Config) error {
	v, ok := d.values[k.name]
	if !ok {
		return nil
	}
	if err := k.set(cfg, v.text); err != nil {
		return d.refuse(v.position, "%s: %s", k.name, k.explain(v.text, err))
	}
	return nil
}

// hideValue keeps a line's value out of messages: below a key that nobody knows there may
// be a secret whose name is misspelt.
func (d *document) hideValue(number int) {
	if number >= 1 && number <= len(d.lines) {
		if name, _, ok := strings.Cut(d.lines[number-1], ":"); ok {
			d.lines[number-1] = name + ": …"
		}
	}
}

// refuse points at a place: path:line:column, the text, the line and a caret below it. A
// line that holds a secret is not shown.
func (d *document) refuse(at *token.Position, format string, args ...any) error {
	text := fmt.Sprintf("%s:%d:%d: %s", d.path, at.Line, at.Column, fmt.Sprintf(format, args...))
	if at.Line < 1 || at.Line > len(d.lines) {
		return &Error{text}
	}
	line := d.lines[at.Line-1]
	for _, word := range d.secret {
		if strings.Contains(line, word) {
			return &Error{text}
		}
	}
	number := fmt.Sprintf("%4d", at.Line)
	return &Error{fmt.Sprintf("%s\n%s | %s\n%s | %s^", text, number, line, strings.Repeat(" ", len(number)),
		strings.Repeat(" ", max(at.Column-1, 0)))}
}
