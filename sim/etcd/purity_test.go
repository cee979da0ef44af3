package etcd

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

// TestPure reads the source: a cluster is a function of what it is given, so nothing here may
// read a clock, start a goroutine, or visit a map.
func TestPure(t *testing.T) {
	set := token.NewFileSet()
	packages, err := parser.ParseDir(set, ".", func(f fs.FileInfo) bool { return !strings.HasSuffix(f.Name(), "_test.go") }, 0)
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{"cmp", "encoding/binary", "math/rand/v2", "slices", "sort", "time", "github.com/dialtone-cc/dialtone/server/core"}
	maps := map[string]bool{}
	files := packages["etcd"].Files
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			if f, ok := n.(*ast.Field); ok {
				if _, isMap := f.Type.(*ast.MapType); isMap {
					for _, name := range f.Names {
						maps[name.Name] = true
					}
				}
			}
			return true
		})
	}
	if !maps["records"] || !maps["named"] {
		t.Fatal("the test does not see the maps any more")
	}
	for name, file := range files {
		for _, spec := range file.Imports {
			if path := strings.Trim(spec.Path.Value, `"`); !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s", name, path)
			}
		}
		for _, decl := range file.Decls {
			if d, ok := decl.(*ast.GenDecl); ok && d.Tok == token.VAR {
				t.Errorf("%s: a variable of the package", set.Position(d.Pos()))
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			at := ""
			switch n := n.(type) {
			case *ast.GoStmt, *ast.SelectStmt, *ast.SendStmt, *ast.ChanType:
				at = "something that happens on its own"
			case *ast.RangeStmt:
				if s, ok := n.X.(*ast.SelectorExpr); ok && maps[s.Sel.Name] {
					at = "a visit of a map"
				}
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && (x.Name == "time" && slices.Contains([]string{"Now", "Since", "After", "Sleep", "Tick"}, n.Sel.Name) ||
					x.Name == "rand" && n.Sel.Name != "Rand") {
					at = x.Name + "." + n.Sel.Name
				}
			}
			if at != "" {
				t.Errorf("%s: %s", set.Position(n.Pos()), at)
			}
			return true
		})
	}
}
