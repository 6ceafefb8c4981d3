//! The environment of a command: a clean base that is the same for all, what names the run, and the job's own settings, which win. Nothing
//! of the worker's environment is in it.

use std::path::PathBuf;

use super::runs::Launch;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is the same for all commands of a worker.
pub struct Base {
    settings: Vec<(String, String)>,
}

impl Base {
    /// The base for commands that run as this process's user.
    pub fn of_this_user() -> Base {
        let (name, home) = user().unwrap_or_else(|| ("nobody".into(), PathBuf::from("/")));
        let settings = [
            ("PATH", PATH.to_string()),
            ("HOME", home.to_string_lossy().into_owned()),
            ("USER", name.clone()),
            ("LOGNAME", name),
            ("SHELL", "/bin/sh".to_string()),
            ("LANG", "C.UTF-8".to_string()),
        ];
        Base { settings: settings.map(|(name, value)| (name.to_string(), value)).to_vec() }
    }

    /// The whole environment of a run's command.
    pub fn of_run(&self, launch: &Launch) -> Vec<(String, String)> {
        let run = [
            ("CHRONO_FLOW_JOB_ID", launch.job.to_string()),
            ("CHRONO_FLOW_JOB_NAME", launch.job_name.to_string()),
            ("CHRONO_FLOW_RUN_ID", launch.run.to_string()),
            ("CHRONO_FLOW_SCHEDULED_AT", launch.scheduled_at.to_string()),
            ("CHRONO_FLOW_ATTEMPT", launch.attempt.to_string()),
        ];
        let own = &launch.task.env;
        let base = self.settings.iter().cloned().chain(run.map(|(name, value)| (name.to_string(), value)));
        let mut all: Vec<(String, String)> = base.filter(|(name, _)| !own.contains_key(name)).collect();
        all.extend(own.iter().map(|(name, value)| (name.clone(), value.clone())));
        all
    }
}

/// Name and home of this process's user, as passwd(5) has them.
fn user() -> Option<(String, PathBuf)> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut entries = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = entries.find(|entry| entry.len() >= 7 && entry[2] == uid)?;
    Some((entry[0].to_string(), PathBuf::from(entry[5])))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{JobId, RunId, UnixMs};
    use crate::rpc::wire::Task;

    #[test]
    fn a_command_sees_the_base_its_run_and_its_jobs_settings_which_win() {
        let mut task = Task {
            command: "env".into(),
            env: Default::default(),
            working_dir: None,
            timeout_ms: None,
            kill_grace_ms: 0,
            max_output_bytes: 0,
            ends_with_lease: false,
        };
        task.env.insert("LANG".into(), "de_DE.UTF-8".into());
        task.env.insert("TOKEN".into(), "secret".into());
        let launch = Launch {
            run: RunId(uuid::Uuid::from_u128(1)),
            job: JobId(7),
            job_name: Arc::from("Date Printer"),
            attempt: 2,
            scheduled_at: UnixMs(1_790_000_000_250),
            task,
        };
        let all = Base::of_this_user().of_run(&launch);
        let get = |name: &str| all.iter().filter(|(each, _)| each == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>();
        assert_eq!(get("LANG"), ["de_DE.UTF-8"]);
        assert_eq!(get("TOKEN"), ["secret"]);
        assert_eq!(get("PATH"), [PATH]);
        assert_eq!(get("CHRONO_FLOW_SCHEDULED_AT"), ["2026-09-21T14:13:20.25Z"]);
        assert_eq!(get("CHRONO_FLOW_JOB_NAME"), ["Date Printer"]);
        assert_eq!((get("CHRONO_FLOW_ATTEMPT"), get("CHRONO_FLOW_JOB_ID")), (vec!["2"], vec!["7"]));
        assert_eq!(all.len(), 6 + 5 + 1);
    }
}
