//! What the loop leaves alone because writing should wait.

use serde_json::{Value, json};
use windlass_core::decision::{Decision, Verdict};

use crate::world::{World, ms, object, one_child};

#[tokio::test(start_paused = true)]
async fn while_the_api_server_wants_nothing_of_a_plugin_it_is_not_even_asked() {
    let world = one_child();
    world.cluster.want_nothing(ms(3000));
    (0..50).for_each(|n| world.cluster.web(&format!("w{n}")));
    world.run_for(ms(2990)).await;
    assert_eq!(world.brain.calls(), 0, "no decision could be carried out");
    world.run_for(ms(2000)).await;
    assert_eq!(world.cluster.log().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_status_within_a_moment_become_one_write() {
    let world = World::leader(|_, snapshot, _| {
        let web: Value = serde_json::from_str(&snapshot.primary.json()).expect("an object");
        let status = Some(json!({ "n": web["spec"]["n"] }).to_string());
        Ok(Verdict::Decision(Decision { status, ..Decision::default() }))
    });
    world.cluster.status_every(ms(100));
    let web = object("x.dev/v1/Web", "a");
    let statuses = || world.cluster.log().iter().filter(|line| line.starts_with("status")).count();
    let shown = || world.cluster.stored(&web).expect("it exists")["status"]["n"].clone();
    for n in 0..8 {
        world.cluster.put(&web, json!({"metadata": {}, "spec": {"n": n}, "status": world_status(&world)}));
        world.run_for(ms(10)).await;
        if n == 0 {
            assert_eq!((statuses(), shown()), (1, json!(0)), "the first is not delayed");
        }
    }
    assert_eq!(statuses(), 1, "80 ms");
    world.run_for(ms(50)).await;
    assert_eq!((statuses(), shown()), (2, json!(7)), "the last word, once");
    world.run_for(ms(5000)).await;
    assert_eq!(statuses(), 2, "and then silence");
}

/// The status as somebody who changes only the spec leaves it.
fn world_status(world: &World) -> Value {
    let stored = world.cluster.stored(&object("x.dev/v1/Web", "a"));
    stored.map_or(Value::Null, |body| body["status"].clone())
}
