package main

import (
	"context"
	"os"

	"github.com/dialtone-cc/dialtone/sim"
)

func main() { os.Exit(sim.Run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }
