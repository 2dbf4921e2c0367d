"""Owns command lines that make no sense, with the sentence for each."""

from wire.durations import NO_DURATION

SEE = "see `worker-service {} --help`."
ID = "needs a job's id; `worker-service list` shows those there are."
NO_COMMAND = "no command was given: worker-service {} [flags] -- COMMAND [ARGUMENT...]."

#: Command lines that make no sense, with the sentence for each.
MISUSES: list[tuple[list[str], str]] = [
    (["nope"], "there is no command 'nope': see `worker-service --help`."),
    (["n" * 100_000], f"there is no command '{'n' * 59}: see `worker-service --help`."),
    (["stat"], "there is no command 'stat': did you mean stats?"),
    (["--nope"], "worker-service has no flag --nope: see `worker-service --help`."),
    (["--server"], "--server needs a value."),
    (["--server", "127.0.0.1:1"], "no command was given: see `worker-service --help`."),
    (["query"], f"query {ID}"),
    (["stop"], f"stop {ID}"),
    (["wait"], f"wait {ID}"),
    (["stream"], f"stream {ID}"),
    (["stats"], f"stats {ID}"),
    (["stats", "a", "b"], f"'b' is one word too many for stats: {SEE.format('stats')}"),
    (["stats", "a", "--interval", "soon"], f"--interval {NO_DURATION.format('soon')}"),
    *(
        (
            ["stats", "a", "--interval", text],
            f"--interval {text} must be from 0.1 to 3600 seconds.",
        )
        for text in ("0", "0.09", "3601", "2h")
    ),
    *(
        (["stats", "a", "--interval", text], f"--interval {NO_DURATION.format(text)}")
        for text in ("-1", "nan")
    ),
    (["remove"], f"remove {ID}"),
    (["stream", "a", "--tail", "1", "--offset", "2"], "--offset and --tail cannot be given together."),
    (
        ["stream", "a", "--tail-bytes", "1", "--since", "2"],
        "--tail-bytes and --since cannot be given together.",
    ),
    (
        ["stream", "a", "--stdout", "--stderr"],
        "--stdout and --stderr cannot be given together; without them, both are shown.",
    ),
    (["stream", "a", "--tail", "x"], "--tail 'x' is no number of lines: write a whole number, 0 or more."),
    (["stream", "a", "--offset", "-5"], "--offset '-5' is no number of bytes: write 4096, 64K or 1M."),
    (
        ["stream", "a", "--since", "soon"],
        "--since 'soon' is no time: write 2026-11-25T10:00:00Z, or an age such as 30s, 5m, 2h or 1d.",
    ),
    (["stream", "a", "--follow=maybe"], "--follow takes no value."),
    (["query", "a", "--patience", "long"], f"--patience {NO_DURATION.format('long')}"),
    (["query", "a", "--patience", "-1"], f"--patience {NO_DURATION.format('-1')}"),
    (["run", "--patience", "nan", "true"], f"--patience {NO_DURATION.format('nan')}"),
    (["query", "a", "b"], f"'b' is one word too many for query: {SEE.format('query')}"),
    (["stop", "a", "b"], f"'b' is one word too many for stop: {SEE.format('stop')}"),
    (["stream", "a", "b"], f"'b' is one word too many for stream: {SEE.format('stream')}"),
    (["wait", "a", "b"], f"'b' is one word too many for wait: {SEE.format('wait')}"),
    (["list", "a"], f"'a' is one word too many for list: {SEE.format('list')}"),
    (["query", "--job", "a"], f"query has no flag --job: {SEE.format('query')}"),
    (["query", "--job=a"], f"query has no flag --job: {SEE.format('query')}"),
    (["stop", "a", "--force"], f"stop has no flag --force: {SEE.format('stop')}"),
    (["stop", "-9", "a"], "stop has no flag -9: did you mean --grace 0?"),
    (["stop", "a", "-9"], "stop has no flag -9: did you mean --grace 0?"),
    (["stop", "-KILL", "a"], "stop has no flag -KILL: did you mean --grace 0?"),
    (["stop", "-t0", "a"], "stop has no flag -t0: did you mean --grace?"),
    (["stop", "-15", "a"], f"stop has no flag -15: {SEE.format('stop')}"),
    (["query", "-9"], f"query has no flag -9: {SEE.format('query')}"),
    (["list", "-a"], f"list has no flag -a: {SEE.format('list')}"),
    (["query", "a", "--json=maybe"], "--json takes no value."),
    (["query", "a", "--json", "--json"], "--json may be given only once."),
    (["query", "a", "--server"], f"--server needs a value: {SEE.format('query')}"),
    (["stop", "a", "--grace"], f"--grace needs a value: {SEE.format('stop')}"),
    (["stop", "a", "--grace", "soon"], f"--grace {NO_DURATION.format('soon')}"),
    (["stop", "a", "--grace", "-1"], f"--grace {NO_DURATION.format('-1')}"),
    (["start"], NO_COMMAND.format("start")),
    (["start", "--"], NO_COMMAND.format("start")),
    (["start", "--", ""], NO_COMMAND.format("start")),
    (["start", "-command", ""], NO_COMMAND.format("start")),
    (["start", "--cpu-limit", "512"], NO_COMMAND.format("start")),
    (["run"], NO_COMMAND.format("run")),
    (["run", "--", ""], NO_COMMAND.format("run")),
    (
        ["start", "--nope", "--", "true"],
        f"start has no flag --nope: {SEE.format('start')}",
    ),
    (
        ["start", "--nope", "true"],
        "start has no flag --nope; a program's own flags come behind a --, as in: "
        "worker-service start -- ls --nope.",
    ),
    (
        ["run", "--memory-limt", "5G", "--", "true"],
        "run has no flag --memory-limt: did you mean --memory-limit?",
    ),
    (["run", "--memry", "5", "true"], "run has no flag --memry: did you mean --memory-limit?"),
    (["certs", "issue", "--for", "a"], f"certs issue has no flag --for: {SEE.format('certs issue')}"),
    (["--srever", "a:1", "list"], "worker-service has no flag --srever: did you mean --server?"),
    (["list", "--jsno"], "list has no flag --jsno: did you mean --json?"),
    (["top"], "there is no command 'top': did you mean stats?"),
    (["status"], "there is no command 'status': did you mean query?"),
    (["strat"], "there is no command 'strat': did you mean start?"),
    (["certs", "isue"], "there is no command 'isue': did you mean issue?"),
    (["start", "-command"], "-command needs a program, such as -command sort."),
    (["start", "--merge=1", "true"], "--merge takes no value."),
    (["start", "--merge", "--merge", "true"], "--merge may be given only once."),
    (["start", "--cwd", "/", "--cwd", "/tmp", "true"], "--cwd may be given only once."),
    (["start", "--cwd", "tmp", "true"], "--cwd 'tmp' must be an absolute path on the server."),
    (["start", "--timeout", "5x", "true"], f"--timeout {NO_DURATION.format('5x')}"),
    (["start", "--timeout", "-1", "true"], f"--timeout {NO_DURATION.format('-1')}"),
    (["start", "--timeout", "0", "true"], "--timeout must be more than zero; leave it out for no limit."),
    (["start", "--env", "--", "true"], "--env needs a value."),
    (
        ["start", "--env", "=x", "true"],
        "--env '=x' names no variable; write NAME=VALUE, or NAME to pass ours on.",
    ),
    (
        ["start", "--env", "NOT_SET", "true"],
        "--env NOT_SET passes our own NOT_SET on, but it is not set; write NOT_SET=VALUE.",
    ),
    (["start", "--cpu-limit", "--", "true"], "--cpu-limit needs a value."),
    (["start", "--cpu-limit", "0", "true"], "--cpu-limit must be more than zero; leave it out for no limit."),
    (
        ["start", "--cpu-limit", "5x", "true"],
        "--cpu-limit '5x' has an unknown unit; write 512, 0.5cpu, 500m or 50%.",
    ),
    (
        ["start", "--cpu-limit", "5", "true"],
        "--cpu-limit 5 is too small, as a bare number counts 1/1024 of a CPU; for CPUs write 5cpu.",
    ),
    (
        ["start", "--memory-limit", "-1G", "true"],
        "--memory-limit must be more than zero; leave it out for no limit.",
    ),
    (
        ["run", "--memory-limit", "5", "true"],
        "--memory-limit 5 is too small, as a bare number counts bytes; the least is 1M.",
    ),
    (
        ["run", "--memory-limit", "5P", "true"],
        "--memory-limit '5P' has an unknown unit; write bytes or a number with K, M, G or T.",
    ),
    (
        ["run", "--disk-limit", "5,6", "true"],
        "--disk-limit '5,6' gives the same kind of limit twice.",
    ),
    (["run", "--pids-limit", "1.5", "true"], "--pids-limit '1.5' must be a whole number."),
    (
        ["start", "--cpu-weight", "0", "true"],
        "--cpu-weight 0 must be from 1 to 10000; leave it out for the default, 100.",
    ),
    (["run", "--disk-weight", "50%", "true"], "--disk-weight '50%' must be a whole number."),
    (
        ["--server", "localhost", "list"],
        "--server 'localhost' is no server address: it lacks the port; "
        "write localhost:8443, or another port.",
    ),
    (
        ["--server", "a:0", "list"],
        "--server 'a:0' is no server address: a port is a number from 1 to 65535.",
    ),
    (["serve", "a"], f"'a' is one word too many for serve: {SEE.format('serve')}"),
    (["serve", "--max-nesting", "16"], "serve has no flag --max-nesting: did you mean --max-waiting?"),
    (["serve", "--port", "1"], "serve has no flag --port: did you mean --listen?"),
    (["serve", "--listen", "a"], "--listen 'a' is not HOST:PORT, such as 127.0.0.1:8443 or [::1]:8443."),
    (
        ["serve", "--listen", "[::1"],
        "--listen '[::1' is not HOST:PORT, such as 127.0.0.1:8443 or [::1]:8443.",
    ),
    (
        ["serve", "--listen", ":8443"],
        "--listen ':8443' is not HOST:PORT, such as 127.0.0.1:8443 or [::1]:8443.",
    ),
    (["serve", "--grace", "soon"], f"--grace {NO_DURATION.format('soon')}"),
    (["serve", "--grace", "2d"], "--grace 172800 must be a number of seconds from 0 to 86400."),
    (["certs", "nope"], "there is no command 'nope': see `worker-service certs --help`."),
    (["certs", "init", "a"], f"'a' is one word too many for certs init: {SEE.format('certs init')}"),
    (["certs", "init", "--nope"], f"certs init has no flag --nope: {SEE.format('certs init')}"),
    (["certs", "init", "--dir"], f"--dir needs a value: {SEE.format('certs init')}"),
]
