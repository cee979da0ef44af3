package loadgen

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// The generator judges any server, so it knows none: nothing of it imports server/.
func TestTheGeneratorKnowsNoServer(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, one := range file.Imports {
			if strings.Contains(one.Path.Value, "/dialtone/server") {
				t.Errorf("%s imports %s", path, one.Path.Value)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
