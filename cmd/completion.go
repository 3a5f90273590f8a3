package cmd

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

// completions are the scripts by shell. They ask the binary itself for words, by
// --generate-bash-completion.
var completions = map[string]string{
	"bash": `_brink() {
  local cur words
  cur="${COMP_WORDS[COMP_CWORD]}"
  if [[ "${COMP_WORDS[1]}" == kubectl && $COMP_CWORD -gt 1 ]]; then
    words=$("${COMP_WORDS[0]}" kubectl __completeNoDesc "${COMP_WORDS[@]:2:$((COMP_CWORD-2))}" "$cur" 2>/dev/null | grep -v '^:')
  else
    words=$("${COMP_WORDS[@]:0:$COMP_CWORD}" ${cur:+"$cur"} --generate-bash-completion 2>/dev/null)
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o bashdefault -o default -F _brink brink
`,
	"zsh": `#compdef brink
_brink() {
  local -a words_
  local cur="${words[CURRENT]}"
  if [[ "${words[2]}" == kubectl && $CURRENT -gt 2 ]]; then
    words_=("${(@f)$(${words[1]} kubectl __completeNoDesc ${words[3,CURRENT-1]} "$cur" 2>/dev/null | grep -v '^:')}")
  else
    words_=("${(@f)$(${words[1,CURRENT-1]} ${cur:+"$cur"} --generate-bash-completion 2>/dev/null)}")
  fi
  compadd -a words_
}
compdef _brink brink
`,
}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a completion script: source <(brink completion bash)",
		Category:  "Help",
		ArgsUsage: "bash|zsh",
		Action: func(c *cli.Context) error {
			script, ok := completions[c.Args().First()]
			if !ok || c.NArg() != 1 {
				return fmt.Errorf("brink completion: name a shell: bash or zsh")
			}
			fmt.Print(script)
			return nil
		},
	}
}
