//! Many at once: one wins, the others hear so, and nothing is left over.

use dist_core::{ErrorKind, Labels};

use crate::support::{Bench, for_each_snapshotter, key};

for_each_snapshotter!(one_of_many_gets_the_name, purging_disturbs_nobody);

fn one_of_many_gets_the_name(bench: &Bench) {
    let threads = 8;
    let won: usize = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let active = format!("active {thread}");
                    bench.prepare(&active, None);
                    match bench.try_commit("name", &active, None) {
                        Ok(()) => 1,
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
                            bench.remove(&active).unwrap();
                            0
                        }
                    }
                })
            })
            .collect();
        tasks.into_iter().map(|task| task.join().unwrap()).sum()
    });
    assert_eq!((won, bench.dirs().len()), (1, 1));

    let won: usize = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| match bench.try_prepare("same", Some("name")) {
                    Ok(_) => 1,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
                        0
                    }
                })
            })
            .collect();
        tasks.into_iter().map(|task| task.join().unwrap()).sum()
    });
    assert_eq!((won, bench.dirs().len()), (1, 2));
}

fn purging_disturbs_nobody(bench: &Bench) {
    std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..3)
            .map(|thread| {
                scope.spawn(move || {
                    for round in 0..20 {
                        let active = format!("active {thread}");
                        let name = format!("name {thread} {round}");
                        bench.prepare(&active, None);
                        bench
                            .snapshotter
                            .commit(&key(&name), &key(&active), None, &Labels::new(), None)
                            .unwrap();
                        bench.prepare(&active, Some(&name));
                        bench.remove(&active).unwrap();
                        bench.remove(&name).unwrap();
                    }
                })
            })
            .collect();
        while tasks.iter().any(|task| !task.is_finished()) {
            dist_snapshot::purge(&bench.store).unwrap();
        }
    });
    assert!(bench.dirs().is_empty());
    assert_eq!(dist_snapshot::purge(&bench.store).unwrap(), 0);
}
