//! Which share of a run is meant: as it was typed, or as a scheduler says.

use super::Failure;
use crate::{pipeline::Resolved, run::Shard};

/// Reads `2/8`, and `auto` or `auto/8` by what the scheduler has put into the environment.
pub(super) fn parse(text: &str) -> Result<Shard, String> {
    read(text, |name| std::env::var(name).ok())
}

fn read(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Shard, String> {
    let number = |name: &str| match variable(name) {
        Some(value) => value.parse::<u32>().map(Some).map_err(|_| format!("{name} is `{value}`, which is no number")),
        None => Ok(None),
    };
    let (first, count) = match text.split_once('/') {
        Some((first, count)) => (first, Some(count.parse::<u32>().map_err(|_| format!("`{count}` is no number"))?)),
        None => (text, None),
    };
    if first != "auto" {
        let wrong = || format!("`{text}` is no shard: give one as `2/8`, from `1/8` to `8/8`, or `auto`");
        return first.parse().ok().zip(count).and_then(|(number, count)| Shard::new(number, count)).ok_or_else(wrong);
    }
    let (index, count) = if let Some(id) = number("SLURM_ARRAY_TASK_ID")? {
        let of_array =
            |name: &str| number(name)?.ok_or_else(|| format!("SLURM_ARRAY_TASK_ID is set, and {name} is not"));
        let [least, most, step, tasks] = [
            of_array("SLURM_ARRAY_TASK_MIN")?,
            of_array("SLURM_ARRAY_TASK_MAX")?,
            of_array("SLURM_ARRAY_TASK_STEP")?.max(1),
            of_array("SLURM_ARRAY_TASK_COUNT")?,
        ];
        if most.saturating_sub(least) / step + 1 != tasks || !(least..=most).contains(&id) {
            return Err(
                "the array has gaps, which tells nobody how many shards there are: name the shard, as `2/8`".to_owned()
            );
        }
        if count.is_some_and(|count| count != tasks) {
            return Err(format!("the array has {tasks} tasks"));
        }
        ((id - least) / step, tasks)
    } else if let Some(index) = number("JOB_COMPLETION_INDEX")? {
        let unknown = "Kubernetes does not say how many there are: give the job's `completions`, as `auto/8`";
        (index, count.ok_or(unknown)?)
    } else {
        let unset = "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set: name the shard, as `2/8`";
        return Err(unset.to_owned());
    };
    Shard::new(index.saturating_add(1), count)
        .ok_or_else(|| format!("there is no shard {} of {count}", index.saturating_add(1)))
}

/// Refuses stages that no share is made of.
pub(super) fn refuse_whole<'i>(resolved: &Resolved, named: impl IntoIterator<Item = &'i usize>) -> Result<(), Failure> {
    let whole = named.into_iter().map(|index| &resolved.stages[*index]).find(|stage| !stage.stage.kind().is_by_item());
    whole.map_or(Ok(()), |stage| {
        let by_item = resolved.stages.iter().filter(|stage| stage.stage.kind().is_by_item());
        let names: Vec<&str> = by_item.map(|stage| stage.name.as_str()).collect();
        Err(Failure::Usage(format!(
            "`{}` is made as a whole, and a shard makes only what is made item by item\nhint: that is {}; run the rest without --shard once \
             all shards are done",
            stage.name,
            names.join(", ")
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(text: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        read(text, variable).map(|shard| shard.to_string())
    }

    fn slurm<'v>(
        id: &'v str,
        least: &'v str,
        most: &'v str,
        step: &'v str,
        count: &'v str,
    ) -> [(&'static str, &'v str); 5] {
        [
            ("SLURM_ARRAY_TASK_ID", id),
            ("SLURM_ARRAY_TASK_MIN", least),
            ("SLURM_ARRAY_TASK_MAX", most),
            ("SLURM_ARRAY_TASK_STEP", step),
            ("SLURM_ARRAY_TASK_COUNT", count),
        ]
    }

    #[test]
    fn a_shard_is_named_by_its_number_and_their_count() {
        assert_eq!(shard("2/8", &[]).unwrap(), "2/8");
        assert_eq!(shard("2/8", &slurm("5", "0", "7", "1", "8")).unwrap(), "2/8");
        for wrong in ["0/8", "9/8", "2", "", "/", "2/", "-1/8", "2/0", "2/x", "auto/", "auto/x", "all"] {
            shard(wrong, &[]).unwrap_err();
        }
    }

    #[test]
    fn slurm_says_which_whatever_its_array_counts_from_and_by() {
        assert_eq!(shard("auto", &slurm("0", "0", "3", "1", "4")).unwrap(), "1/4");
        assert_eq!(shard("auto", &slurm("4", "1", "4", "1", "4")).unwrap(), "4/4");
        assert_eq!(shard("auto", &slurm("14", "10", "17", "2", "4")).unwrap(), "3/4");
        assert_eq!(shard("auto/4", &slurm("2", "1", "4", "1", "4")).unwrap(), "2/4");
        // `--array=1,2,7`: what the shards were once is not known.
        assert!(shard("auto", &slurm("7", "1", "7", "1", "3")).unwrap_err().contains("gaps"));
        assert!(shard("auto/8", &slurm("2", "1", "4", "1", "4")).unwrap_err().contains("4 tasks"));
        assert!(shard("auto", &slurm("2", "1", "4", "1", "4")[..2]).unwrap_err().contains("TASK_MAX"));
    }

    #[test]
    fn kubernetes_says_which_and_the_user_of_how_many() {
        let index = [("JOB_COMPLETION_INDEX", "3")];
        assert_eq!(shard("auto/4", &index).unwrap(), "4/4");
        assert!(shard("auto", &index).unwrap_err().contains("completions"));
        assert!(shard("auto/3", &index).unwrap_err().contains("no shard 4 of 3"));
        assert!(shard("auto", &[]).unwrap_err().contains("neither"));
    }
}
