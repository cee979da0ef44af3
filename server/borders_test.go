package server_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Who may import whom, how large a file and a function may be, and which names say
// nothing: checked over the module's own source, with a planted violation for each rule.

const module = "github.com/dialtone-cc/dialtone/"

const (
	longestFile     = 600 // lines
	longestFunction = 70  // lines, from func to the closing brace
)

// sourceFile is one non-test Go file of the module.
type sourceFile struct {
	path  string // slash-separated, below the module's root
	lines int
	fset  *token.FileSet
	ast   *ast.File
}

func parse(name string, content any) (sourceFile, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, content, parser.SkipObjectResolution|parser.ParseComments)
	if err != nil {
		return sourceFile{}, err
	}
	return sourceFile{name, fset.File(file.FileStart).LineCount(), fset, file}, nil
}

// room is the folder that the rules speak of: "server/edge/loop" for all below it.
func room(folder string) string {
	parts := strings.Split(folder, "/")
	switch {
	case strings.HasPrefix(folder, "server/edge/") && len(parts) > 3:
		return strings.Join(parts[:3], "/")
	case strings.HasPrefix(folder, "server/") && !strings.HasPrefix(folder, "server/edge/") && len(parts) > 2:
		return strings.Join(parts[:2], "/")
	case strings.HasPrefix(folder, "server/"):
		return folder
	}
	return parts[0]
}

// border says why a file in folder from must not import folder to; "" when it may.
func border(from, to string) string {
	from, to = room(from), room(to)
	toEdge, toServer := strings.HasPrefix(to, "server/edge/"), strings.HasPrefix(to, "server/")
	switch {
	case from == to:
		return ""
	case from == "server/core":
		return "the core imports nothing of the module but itself"
	case strings.HasPrefix(from, "server/edge/") && to != "server/core":
		return "an edge imports the core only"
	case from == "server/telemetry" && to != "server/core":
		return "telemetry imports the core only"
	case from == "server/config" && to != "server/core":
		return "config imports the core only"
	case from == "linearizability" && toServer:
		return "a specification that imports the implementation cannot disagree with it"
	case from == "sim" && toServer && to != "server/core":
		return "the simulator runs the core, never an edge"
	case from == "server/clusterctl" && to == "server/edge/etcdstore":
		return "" // the operator's tools read etcd, and start it; they run no core
	case toEdge && from != "server/app":
		return "edges meet the core in server/app only"
	}
	return ""
}

// meaningless are package names that say nothing about what is inside.
func meaningless() []string {
	return []string{"util", "utils", "helper", "helpers", "manager", "managers", "handler", "handlers", "common", "misc", "shared", "session", "contact", "channel", "state", "offer"}
}

func check(f sourceFile) (found []string) {
	for _, spec := range f.ast.Imports {
		imported := strings.Trim(spec.Path.Value, `"`)
		if to, ok := strings.CutPrefix(imported, module); ok {
			if why := border(path.Dir(f.path), to); why != "" {
				found = append(found, fmt.Sprintf("%s imports %s: %s", f.path, to, why))
			}
		}
	}
	if slices.Contains(meaningless(), f.ast.Name.Name) {
		found = append(found, fmt.Sprintf("%s: package %s says nothing about what is inside", f.path, f.ast.Name.Name))
	}
	if ast.IsGenerated(f.ast) {
		return found
	}
	if f.lines > longestFile {
		found = append(found, fmt.Sprintf("%s has %d lines, at most %d", f.path, f.lines, longestFile))
	}
	for _, decl := range f.ast.Decls {
		if function, ok := decl.(*ast.FuncDecl); ok {
			lines := f.fset.Position(function.End()).Line - f.fset.Position(function.Pos()).Line + 1
			if lines > longestFunction {
				found = append(found, fmt.Sprintf("%s: function %s has %d lines, at most %d", f.path, function.Name.Name, lines, longestFunction))
			}
		}
	}
	return found
}

func TestBorders(t *testing.T) {
	checked := 0
	err := filepath.WalkDir("..", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && name != ".." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || entry.Name() == "node_modules" || entry.Name() == "third_party") {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parse(name, nil)
		if err != nil {
			return err
		}
		f.path = strings.TrimPrefix(filepath.ToSlash(name), "../")
		checked++
		for _, line := range check(f) {
			t.Error(line)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked < 20 {
		t.Fatalf("only %d files were read", checked)
	}
}

func TestPlantedBorderViolations(t *testing.T) {
	long := "\n" + strings.Repeat("\t_ = 1\n", longestFunction)
	for _, c := range []struct{ path, content, want string }{
		{"server/edge/media/x.go", `package media; import _ "` + module + `server/edge/sipstack"`, "an edge imports the core only"},
		{"server/edge/media/deep/x.go", `package deep; import _ "` + module + `server/edge/sipstack"`, "an edge imports the core only"},
		{"server/edge/media/x.go", `package media; import _ "` + module + `server/config"`, "an edge imports the core only"},
		{"server/core/node/x.go", `package node; import _ "` + module + `server/edge/loop"`, "the core imports nothing"},
		{"server/core/node/x.go", `package node; import _ "` + module + `sim"`, "the core imports nothing"},
		{"server/telemetry/x.go", `package telemetry; import _ "` + module + `server/edge/loop"`, "telemetry imports"},
		{"sim/check/x.go", `package check; import _ "` + module + `server/edge/media"`, "never an edge"},
		{"sim/x.go", `package sim; import _ "` + module + `server/app"`, "never an edge"},
		{"linearizability/x.go", `package linearizability; import _ "` + module + `server/core"`, "cannot disagree"},
		{"loadgen/x.go", `package loadgen; import _ "` + module + `server/edge/media"`, "in server/app only"},
		{"server/clusterctl/x.go", `package clusterctl; import _ "` + module + `server/edge/media"`, "in server/app only"},
		{"main.go", `package main; import _ "` + module + `server/edge/loop"`, "in server/app only"},
		{"sim/x.go", "package util", "says nothing"},
		{"sim/x.go", "package sim" + strings.Repeat("\n", longestFile+1), "601 lines"},
		{"sim/x.go", "package sim\nfunc f() {" + long + "}", "function f has 72 lines"},
	} {
		f, err := parse(c.path, c.content)
		if err != nil {
			t.Fatal(err)
		}
		if found := strings.Join(check(f), "\n"); !strings.Contains(found, c.want) {
			t.Errorf("%s: found %q, want %q", c.path, found, c.want)
		}
	}
}

func TestAllowedImports(t *testing.T) {
	for _, pair := range [][2]string{
		{"server/app", "server/edge/loop"}, {"server/edge/loop", "server/core"}, {"server/edge/media", "server/core/sdp"},
		{"sim", "server/core/node"}, {"sim/check", "sim"}, {"sim", "sim/check"}, {".", "server/app"}, {".", "server/config"}, {"server/telemetry", "server/core/node"},
		{"server/edge/records", "server/edge/records/schema"}, {"chaos", "linearizability"}, {"server/app", "server/config"},
	} {
		if why := border(pair[0], pair[1]); why != "" {
			t.Errorf("%s may import %s, but: %s", pair[0], pair[1], why)
		}
	}
}
