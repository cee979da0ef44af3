package measure

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
)

//go:embed schema.json
var schemaText string // embedding needs a variable; nothing writes to it

// Schema is the JSON Schema (2020-12) of the result document; that of a line of the calls
// file is its #/$defs/call.
func Schema() string { return schemaText }

// Read reads a result document. Unknown fields and other versions are refused.
func Read(from io.Reader) (*Result, error) {
	dec := json.NewDecoder(from)
	var r Result
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return nil, fmt.Errorf("this is not a result of version %s: %w", SchemaID, err)
	}
	if r.Schema != SchemaID {
		return nil, fmt.Errorf("the result's schema is %q, this version reads %q", r.Schema, SchemaID)
	}
	return &r, nil
}
