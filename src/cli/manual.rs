//! `sd3pipe completions` and `sd3pipe man`: for shells and for `man`, from the same definitions as the help.

use super::{CommandLine, Failure, print};
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use std::{fs, path::PathBuf};

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell to complete in.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut CommandLine::command(), "sd3pipe", &mut script);
        print(&String::from_utf8_lossy(&script))
    }
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Writes a page for each verb into this folder, in the place of printing the first.
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut command = CommandLine::command();
        command.build();
        let Some(folder) = self.folder else { return print(&page(&command)?) };
        let fault = |error| Failure::Usage(format!("cannot write to {}: {error}", folder.display()));
        fs::create_dir_all(&folder).map_err(fault)?;
        let verbs = command.get_subcommands().filter(|verb| verb.get_name() != "help");
        for (name, command) in std::iter::once(("sd3pipe".to_owned(), &command))
            .chain(verbs.map(|verb| (format!("sd3pipe-{}", verb.get_name()), verb)))
        {
            fs::write(folder.join(format!("{name}.1")), page(command)?).map_err(fault)?;
        }
        print(&format!("wrote the pages to {}\n", folder.display()))
    }
}

fn page(command: &Command) -> Result<String, Failure> {
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(command.clone()).render(&mut page);
    rendered.map_err(|error| Failure::Usage(format!("cannot write a page: {error}")))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
