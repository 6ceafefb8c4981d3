//! Commands of the shell, as people type them. `docker compose` is docker-compose where Docker has no such command.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

const COMPOSE: &str = r#"
if ! command docker compose version >/dev/null 2>&1; then
  docker() { if [ "${1:-}" = compose ]; then shift; docker-compose "$@"; else command docker "$@"; fi; }
fi
"#;
/// Says that a block has ended, and how.
const END: &str = "--- the block has ended: ";

/// One shell that remembers its variables from block to block.
pub struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    pub fn at(dir: &Path, env: &[(String, String)]) -> Shell {
        let mut command = Command::new("bash");
        command.current_dir(dir).envs(env.iter().cloned()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("bash starts");
        let (input, output) = (child.stdin.take().expect("a pipe"), BufReader::new(child.stdout.take().expect("a pipe")));
        let mut shell = Shell { child, input, output };
        shell.input.write_all(COMPOSE.as_bytes()).expect("the shell listens");
        shell
    }

    /// Runs a block to its end, or to the first command that fails; answers what it printed. A command is a line, and goes on where that
    /// ends with a backslash.
    pub fn run(&mut self, block: &str) -> Result<String, String> {
        let mut script = String::from("code=0; {\n");
        for command in commands(block) {
            script.push_str(&format!("if [ $code = 0 ]; then\n{command}\ncode=$?; fi\n"));
        }
        script.push_str(&format!("}} 2>&1 </dev/null; echo \"{END}$code\"\n"));
        self.input.write_all(script.as_bytes()).expect("the shell listens");
        let mut told = String::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).expect("the shell talks") > 0, "the shell is gone:\n{told}");
            if let Some(at) = line.find(END) {
                told.push_str(&line[..at]);
                let code = line[at + END.len()..].trim();
                return if code == "0" { Ok(told) } else { Err(format!("exit code {code}:\n{told}")) };
            }
            told.push_str(&line);
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn commands(block: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut goes_on = false;
    for line in block.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        match commands.last_mut() {
            Some(last) if goes_on => *last = format!("{last}\n{line}"),
            _ => commands.push(line.to_owned()),
        }
        goes_on = line.ends_with('\\');
    }
    commands
}

/// One command, whatever comes of it.
pub fn try_run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// One command, which has to go well; answers what it printed.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> String {
    let output = try_run(program, args);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}

#[track_caller]
pub fn docker(args: &[&str]) -> String {
    run("docker", args)
}
