package main

import "strings"

// flags are the words of the command line: `--name value`, `--name=value`, `--name`.
//
// The testbed starts every contender with the words of Windlass. Those that mean nothing here are accepted and have no effect,
// which is why this is not package flag.
type flags map[string]string

func readFlags(words []string) flags {
	read := flags{
		"leader-elect":              "false",
		"namespace":                 "default",
		"pod-name":                  "webapp",
		"health-probe-bind-address": ":8081",
		"metrics-bind-address":      "0",
	}
	for i := 0; i < len(words); i++ {
		name, isFlag := strings.CutPrefix(words[i], "--")
		if !isFlag {
			continue
		}
		if name, value, found := strings.Cut(name, "="); found {
			read[name] = value
			continue
		}
		read[name] = "true"
		if i+1 < len(words) && !strings.HasPrefix(words[i+1], "--") {
			i++
			read[name] = words[i]
		}
	}
	return read
}

func (f flags) text(name string) string { return f[name] }

func (f flags) on(name string) bool { return f[name] == "true" }
