module fairlead/tests/interop

go 1.22

require (
	github.com/summerwind/h2spec v2.2.1+incompatible
	golang.org/x/net v0.33.0
)

require (
	github.com/fatih/color v1.13.0 // indirect
	github.com/mattn/go-colorable v0.1.12 // indirect
	github.com/mattn/go-isatty v0.0.14 // indirect
	golang.org/x/sys v0.28.0 // indirect
	golang.org/x/text v0.21.0 // indirect
)
