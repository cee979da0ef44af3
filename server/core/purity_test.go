package core_test

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The core is a function of its events (README of server): this test reads its source and
// refuses what would make it anything else. Each rule has a planted violation below, so
// that a rule which no longer bites fails too.

const coreRoot = "github.com/dialtone-cc/dialtone/server/core"

// allowed are the standard packages that the core may import. Nothing here can read a
// clock, a file or a socket, start a goroutine or hold hidden state, apart from the
// names that forbiddenNames and allowedNames take out.
func allowed() []string {
	return []string{
		"bytes", "cmp", "container/heap", "container/list", "crypto/hmac", "crypto/md5", "crypto/sha256", "crypto/sha512", "crypto/subtle",
		"encoding/base64", "encoding/binary", "encoding/hex", "encoding/json", "errors", "fmt", "hash", "hash/fnv", "iter", "maps",
		"math", "math/bits", "math/rand/v2", "net", "net/netip", "net/url", "slices", "sort", "strconv", "strings", "time",
		"unicode", "unicode/utf8",
	}
}

// allowedNames restrict packages of which the core needs a few pure functions.
func allowedNames() map[string][]string {
	return map[string][]string{
		"net":          {"ParseIP", "JoinHostPort", "SplitHostPort"},
		"math/rand/v2": {"New", "NewChaCha8", "NewPCG", "Rand", "ChaCha8", "PCG", "Source"},
	}
}

// forbiddenNames are the impure names of packages that are pure otherwise.
func forbiddenNames() map[string][]string {
	return map[string][]string{
		"time": {"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker", "Timer", "Ticker", "Local", "LoadLocation"},
		"fmt":  {"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"},
	}
}

// rules checks type-checked source against all rules.
type rules struct {
	fset  *token.FileSet
	info  *types.Info
	files []*ast.File
	found []string
}

func (r *rules) report(at token.Pos, format string, args ...any) {
	p := r.fset.Position(at)
	r.found = append(r.found, fmt.Sprintf("%s:%d: %s", p.Filename, p.Line, fmt.Sprintf(format, args...)))
}

func (r *rules) check() []string {
	r.variables()
	for _, file := range r.files {
		r.imports(file)
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				r.report(f.Pos(), "init function")
			}
		}
		ast.Inspect(file, func(n ast.Node) bool { r.statement(n); return true })
		r.mapOrder(file)
	}
	return r.found
}

func (r *rules) imports(file *ast.File) {
	for _, spec := range file.Imports {
		name := strings.Trim(spec.Path.Value, `"`)
		inside := name == coreRoot || strings.HasPrefix(name, coreRoot+"/")
		if !inside && !slices.Contains(allowed(), name) {
			r.report(spec.Pos(), "import of %s", name)
		}
		if spec.Name != nil && (spec.Name.Name == "." || spec.Name.Name == "_") {
			r.report(spec.Pos(), "import of %s as %s", name, spec.Name.Name)
		}
	}
}

func (r *rules) statement(n ast.Node) {
	switch n := n.(type) {
	case *ast.GoStmt:
		r.report(n.Pos(), "go statement")
	case *ast.SelectStmt:
		r.report(n.Pos(), "select")
	case *ast.SendStmt:
		r.report(n.Pos(), "channel send")
	case *ast.ChanType:
		r.report(n.Pos(), "channel type")
	case *ast.UnaryExpr:
		if n.Op == token.ARROW {
			r.report(n.Pos(), "channel receive")
		}
	case *ast.RangeStmt:
		switch r.info.TypeOf(n.X).Underlying().(type) {
		case *types.Map:
			r.report(n.Pos(), "range over a map")
		case *types.Chan:
			r.report(n.Pos(), "range over a channel")
		}
	case *ast.SelectorExpr:
		r.name(n)
	}
}

// name checks the use of one name of an imported package.
func (r *rules) name(sel *ast.SelectorExpr) {
	ident, ok := sel.X.(*ast.Ident)
	if !ok {
		return
	}
	imported, ok := r.info.Uses[ident].(*types.PkgName)
	if !ok {
		return
	}
	from, name := imported.Imported().Path(), sel.Sel.Name
	if names, ok := allowedNames()[from]; ok && !slices.Contains(names, name) {
		r.report(sel.Pos(), "%s.%s", from, name)
	}
	if slices.Contains(forbiddenNames()[from], name) {
		r.report(sel.Pos(), "%s.%s", from, name)
	}
}

// mapOrder refuses the iterators of package maps except directly below a sort: their
// order differs from run to run.
func (r *rules) mapOrder(file *ast.File) {
	sorted := map[ast.Node]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if strings.HasPrefix(r.called(call), "slices.Sorted") {
			for _, arg := range call.Args {
				sorted[arg] = true
			}
		}
		if name := r.called(call); slices.Contains([]string{"maps.Keys", "maps.Values", "maps.All"}, name) && !sorted[call] {
			r.report(call.Pos(), "%s without slices.Sorted", name)
		}
		return true
	})
}

// called returns "package.Function" of a call into another package.
func (r *rules) called(call *ast.CallExpr) string {
	fun := call.Fun
	if index, ok := fun.(*ast.IndexExpr); ok {
		fun = index.X
	}
	sel, ok := fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if ident, ok := sel.X.(*ast.Ident); ok {
		if imported, ok := r.info.Uses[ident].(*types.PkgName); ok {
			return imported.Imported().Path() + "." + sel.Sel.Name
		}
	}
	return ""
}

// variables refuses package-level variables other than errors and tables that nothing
// ever changes: no assignment to them or below them, no address taken, no method with a
// pointer receiver called on them.
func (r *rules) variables() {
	tables := map[types.Object]token.Pos{}
	failure := types.Universe.Lookup("error").Type().Underlying().(*types.Interface)
	for _, file := range r.files {
		for _, decl := range file.Decls {
			general, ok := decl.(*ast.GenDecl)
			if !ok || general.Tok != token.VAR {
				continue
			}
			for _, spec := range general.Specs {
				for _, ident := range spec.(*ast.ValueSpec).Names {
					object := r.info.Defs[ident]
					if object == nil || ident.Name == "_" {
						continue
					}
					tables[object] = ident.Pos()
					switch object.Type().Underlying().(type) {
					case *types.Array, *types.Slice, *types.Map, *types.Struct, *types.Basic:
					default:
						if !types.Implements(object.Type(), failure) {
							r.report(ident.Pos(), "package variable %s of type %s", ident.Name, object.Type())
						}
					}
				}
			}
		}
	}
	for _, file := range r.files {
		ast.Inspect(file, func(n ast.Node) bool { r.change(n, tables); return true })
	}
}

func (r *rules) change(n ast.Node, tables map[types.Object]token.Pos) {
	blame := func(x ast.Expr, how string) {
		if object := r.root(x); object != nil {
			if _, ok := tables[object]; ok {
				r.report(x.Pos(), "package variable %s is %s", object.Name(), how)
			}
		}
	}
	switch n := n.(type) {
	case *ast.AssignStmt:
		for _, left := range n.Lhs {
			blame(left, "assigned")
		}
	case *ast.IncDecStmt:
		blame(n.X, "assigned")
	case *ast.RangeStmt:
		if n.Tok == token.ASSIGN {
			blame(n.Key, "assigned")
		}
	case *ast.UnaryExpr:
		if n.Op == token.AND {
			blame(n.X, "addressed")
		}
	case *ast.CallExpr:
		if ident, ok := n.Fun.(*ast.Ident); ok && slices.Contains([]string{"delete", "clear", "copy"}, ident.Name) && len(n.Args) > 0 {
			blame(n.Args[0], "changed by "+ident.Name)
		}
		if sel, ok := n.Fun.(*ast.SelectorExpr); ok {
			if method, ok := r.info.Selections[sel]; ok && method.Kind() == types.MethodVal {
				signature := method.Obj().Type().(*types.Signature)
				_, pointer := signature.Recv().Type().(*types.Pointer)
				if _, already := r.info.TypeOf(sel.X).(*types.Pointer); pointer && !already {
					blame(sel.X, "addressed by "+sel.Sel.Name)
				}
			}
		}
	}
}

// root returns the variable that an expression selects from.
func (r *rules) root(x ast.Expr) types.Object {
	for {
		switch e := x.(type) {
		case *ast.Ident:
			return r.info.Uses[e]
		case *ast.IndexExpr:
			x = e.X
		case *ast.SelectorExpr:
			x = e.X
		case *ast.ParenExpr:
			x = e.X
		case *ast.SliceExpr:
			x = e.X
		case *ast.StarExpr:
			x = e.X
		default:
			return nil
		}
	}
}

// source type-checks packages of the core from their files, and the standard library from
// its export data.
type source struct {
	fset     *token.FileSet
	standard types.Importer
	done     map[string]*types.Package
	found    map[string][]string
}

func newSource() *source {
	fset := token.NewFileSet()
	return &source{fset, importer.ForCompiler(fset, "gc", nil), map[string]*types.Package{}, map[string][]string{}}
}

// Import makes source a types.Importer.
func (s *source) Import(name string) (*types.Package, error) {
	if name != coreRoot && !strings.HasPrefix(name, coreRoot+"/") {
		return s.standard.Import(name)
	}
	if done := s.done[name]; done != nil {
		return done, nil
	}
	dir := filepath.Join(".", strings.TrimPrefix(strings.TrimPrefix(name, coreRoot), "/"))
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var files []*ast.File
	for _, file := range names {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(s.fset, file, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, parsed)
	}
	pkg, found, err := s.verify(name, files)
	s.done[name], s.found[name] = pkg, found
	return pkg, err
}

func (s *source) verify(name string, files []*ast.File) (*types.Package, []string, error) {
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{},
		Defs: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{}}
	pkg, err := (&types.Config{Importer: s}).Check(name, s.fset, files, info)
	if err != nil {
		return nil, nil, err
	}
	return pkg, (&rules{fset: s.fset, info: info, files: files}).check(), nil
}

func TestCoreIsPure(t *testing.T) {
	s := newSource()
	checked := 0
	err := filepath.WalkDir(".", func(dir string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() || entry.Name() == "testdata" {
			return err
		}
		names, _ := filepath.Glob(filepath.Join(dir, "*.go"))
		names = slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
		if len(names) == 0 {
			return nil
		}
		checked++
		_, err = s.Import(path.Join(coreRoot, filepath.ToSlash(dir)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked < 2 {
		t.Fatalf("only %d packages were read", checked)
	}
	for _, name := range slices.Sorted(maps.Keys(s.found)) {
		for _, line := range s.found[name] {
			t.Error(line)
		}
	}
}

func TestPlantedImpurities(t *testing.T) {
	s := newSource()
	for _, c := range []struct{ name, imports, body, want string }{
		{"clock", `"time"`, `func f() time.Time { return time.Now() }`, "time.Now"},
		{"clock as a value", `"time"`, `func f() func() time.Time { return time.Now }`, "time.Now"},
		{"clock renamed", `clock "time"`, `func f() clock.Time { return clock.Now() }`, "time.Now"},
		{"since", `"time"`, `func f(t time.Time) time.Duration { return time.Since(t) }`, "time.Since"},
		{"sleep", `"time"`, `func f() { time.Sleep(1) }`, "time.Sleep"},
		{"timer", `"time"`, `type t struct{ x *time.Timer }`, "time.Timer"},
		{"goroutine", ``, `func f() { go f() }`, "go statement"},
		{"channel", ``, `type t struct{ c chan int }`, "channel type"},
		{"send", ``, `func f(c chan int) { c <- 1 }`, "channel send"},
		{"receive", ``, `func f(c chan int) { <-c }`, "channel receive"},
		{"select", ``, `func f() { select {} }`, "select"},
		{"range over map", ``, `type m map[string]int; func f(x m) { for range x {} }`, "range over a map"},
		{"keys unsorted", `"maps"`, `func f(x map[string]int) { for range maps.Keys(x) {} }`, "maps.Keys without"},
		{"values collected", `"maps"; "slices"`, `func f(x map[string]int) []int { return slices.Collect(maps.Values(x)) }`, "maps.Values without"},
		{"global chance", `"math/rand/v2"`, `func f() int { return rand.IntN(3) }`, "math/rand/v2.IntN"},
		{"old chance", `"math/rand"`, `func f() int { return rand.Intn(3) }`, "import of math/rand"},
		{"true chance", `"crypto/rand"`, `func f() string { return rand.Text() }`, "import of crypto/rand"},
		{"file", `"os"`, `func f() { os.Exit(1) }`, "import of os"},
		{"lock", `"sync"`, `type t struct{ sync.Mutex }`, "import of sync"},
		{"socket", `"net"`, `func f() { net.Dial("tcp", "") }`, "net.Dial"},
		{"name look-up", `"net"`, `func f() { net.LookupHost("") }`, "net.LookupHost"},
		{"printing", `"fmt"`, `func f() { fmt.Println() }`, "fmt.Println"},
		{"log", `"log/slog"`, `func f() { slog.Info("") }`, "import of log/slog"},
		{"dot import", `. "time"`, `func f() Time { return Now() }`, "import of time as ."},
		{"blank import", `_ "embed"`, ``, "import of embed"},
		{"init", ``, `func init() {}`, "init function"},
		{"counter", ``, `var n int; func f() { n++ }`, "package variable n is assigned"},
		{"cache", ``, `var m = map[string]int{}; func f() { m["a"] = 1 }`, "package variable m is assigned"},
		{"cache emptied", ``, `var m = map[string]int{}; func f() { clear(m) }`, "package variable m is changed"},
		{"field", ``, `var v struct{ n int }; func f() { v.n = 1 }`, "package variable v is assigned"},
		{"address", ``, `var v struct{ n int }; func f() *int { return &v.n }`, "package variable v is addressed"},
		{"method", `"strings"`, `var b strings.Builder; func f() { b.WriteString("") }`, "package variable b is addressed"},
		{"function variable", ``, `var hook func()`, "package variable hook"},
		{"pointer", ``, `var p *int`, "package variable p"},
	} {
		file, err := parser.ParseFile(s.fset, c.name, "package p\nimport ("+c.imports+")\n"+c.body, parser.SkipObjectResolution)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		_, found, err := s.verify("planted", []*ast.File{file})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if !strings.Contains(strings.Join(found, "\n"), c.want) {
			t.Errorf("%s: found %q, want %q", c.name, found, c.want)
		}
	}
}

func TestPureSourcePasses(t *testing.T) {
	s := newSource()
	text, err := os.ReadFile("testdata/pure.txt")
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(s.fset, "pure", text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	_, found, err := s.verify("pure", []*ast.File{file})
	if err != nil || len(found) > 0 {
		t.Errorf("%v %q", err, found)
	}
}
