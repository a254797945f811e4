//! NetworkPolicies, enforced on the nodes as far as `deploy/` uses them: pods by `matchLabels`, namespaces by `matchLabels`, `ipBlock`
//! without exceptions, ports by number and by name.
//!
//! The usual plugins that enforce policies take what this kernel may lack or bring images of their own. This is iptables in the
//! chain that packets between pods and to the API server pass; what a node itself sends to its pods, as a kubelet's probes, is never
//! looked at, as everywhere.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The chain that everything else hangs from.
pub(super) const CHAIN: &str = "WINDLASS-POLICY";

/// What is known of the cluster.
pub(super) struct World {
    pub(super) pods: Vec<Value>,
    pub(super) namespaces: Vec<Value>,
    pub(super) policies: Vec<Value>,
}

/// A packet's other side, and a port of whoever is the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Allowed {
    /// A network; none is anybody.
    peer: Option<String>,
    /// `tcp 8082`; none is any.
    port: Option<(String, u64)>,
}

impl World {
    /// The rules as `iptables-restore --noflush` reads them: each pod that a policy selects has a chain a direction, in which what is
    /// allowed returns and everything else is dropped.
    ///
    /// # Errors
    /// If a policy says something that is not understood here: silence would be a test that cannot fail.
    pub(super) fn rules(&self) -> Result<String> {
        let (mut chains, mut rules) = (vec![CHAIN.to_owned()], String::new());
        // Answers belong to what was allowed.
        writeln!(rules, "-A {CHAIN} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN")?;
        for (number, pod) in self.pods.iter().enumerate() {
            let Some(address) =
                pod["status"]["podIP"].as_str().filter(|_| pod["spec"]["hostNetwork"] != true)
            else {
                continue;
            };
            for (kind, list, side, chain) in
                [("Ingress", "ingress", "-d", "IN"), ("Egress", "egress", "-s", "OUT")]
            {
                let Some(allowed) = self.allowed(pod, kind, list)? else { continue };
                let chain = format!("WL-{chain}-{number}");
                writeln!(rules, "-A {CHAIN} {side} {address} -j {chain}")?;
                let other = if side == "-d" { "-s" } else { "-d" };
                for Allowed { peer, port } in allowed {
                    write!(rules, "-A {chain}")?;
                    if let Some(peer) = peer {
                        write!(rules, " {other} {peer}")?;
                    }
                    if let Some((protocol, port)) = port {
                        write!(rules, " -p {protocol} --dport {port}")?;
                    }
                    writeln!(rules, " -j RETURN")?;
                }
                writeln!(rules, "-A {chain} -j DROP")?;
                chains.push(chain);
            }
        }
        let head: String = chains.iter().map(|chain| format!(":{chain} - [0:0]\n")).collect();
        Ok(format!("*filter\n{head}{rules}COMMIT\n"))
    }

    /// What may come to a pod, or go from it; nothing if no policy selects it.
    fn allowed(&self, pod: &Value, kind: &str, list: &str) -> Result<Option<Vec<Allowed>>> {
        let (mut selected, mut allowed) = (false, Vec::new());
        for policy in &self.policies {
            let types = policy["spec"]["policyTypes"].as_array().context("policyTypes are defaulted")?;
            let same = policy["metadata"]["namespace"] == pod["metadata"]["namespace"];
            if !same || !types.iter().any(|one| one == kind) || !fits(&policy["spec"]["podSelector"], pod)? {
                continue;
            }
            selected = true;
            for rule in policy["spec"][list].as_array().into_iter().flatten() {
                let peers = if kind == "Ingress" { &rule["from"] } else { &rule["to"] };
                let destinations = if kind == "Ingress" { vec![pod] } else { self.pods.iter().collect() };
                let ports = ports(&rule["ports"], &destinations)?;
                for peer in self.networks(peers, policy)? {
                    allowed
                        .extend(ports.iter().map(|port| Allowed { peer: peer.clone(), port: port.clone() }));
                }
            }
        }
        Ok(selected.then_some(allowed))
    }

    /// The networks of some peers.
    fn networks(&self, peers: &Value, policy: &Value) -> Result<Vec<Option<String>>> {
        let Some(peers) = peers.as_array().filter(|peers| !peers.is_empty()) else { return Ok(vec![None]) };
        let mut found = BTreeSet::new();
        for peer in peers {
            if let Some(cidr) = peer["ipBlock"]["cidr"].as_str() {
                ensure!(
                    peer["ipBlock"]["except"].is_null(),
                    "exceptions of an ipBlock are not understood here"
                );
                found.insert(cidr.to_owned());
                continue;
            }
            for pod in &self.pods {
                let Some(address) = pod["status"]["podIP"].as_str() else { continue };
                let namespace = &pod["metadata"]["namespace"];
                let within = if peer["namespaceSelector"].is_null() {
                    *namespace == policy["metadata"]["namespace"]
                } else {
                    let object = self.namespaces.iter().find(|one| one["metadata"]["name"] == *namespace);
                    object.map_or(Ok(false), |object| fits(&peer["namespaceSelector"], object))?
                };
                if within && fits(&peer["podSelector"], pod)? {
                    found.insert(format!("{address}/32"));
                }
            }
        }
        Ok(found.into_iter().map(Some).collect())
    }
}

/// Whether a selector of labels selects an object. An empty one selects all.
fn fits(selector: &Value, object: &Value) -> Result<bool> {
    ensure!(selector["matchExpressions"].is_null(), "matchExpressions are not understood here: {selector}");
    let wanted = selector["matchLabels"].as_object();
    Ok(wanted.into_iter().flatten().all(|(name, value)| object["metadata"]["labels"][name] == *value))
}

/// The ports of a rule. One by name is whatever the destinations call so.
fn ports(ports: &Value, destinations: &[&Value]) -> Result<Vec<Option<(String, u64)>>> {
    let Some(ports) = ports.as_array().filter(|ports| !ports.is_empty()) else { return Ok(vec![None]) };
    let mut found = Vec::new();
    for port in ports {
        ensure!(port["endPort"].is_null(), "ranges of ports are not understood here");
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_lowercase();
        if let Some(number) = port["port"].as_u64() {
            found.push(Some((protocol, number)));
            continue;
        }
        let containers =
            destinations.iter().flat_map(|pod| pod["spec"]["containers"].as_array().into_iter().flatten());
        let named = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
        for one in named.filter(|one| one["name"] == port["port"]) {
            let one = one["containerPort"].as_u64().map(|number| Some((protocol.clone(), number)));
            found.extend(one.filter(|one| !found.contains(one)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, namespace: &str, address: &str, app: &str) -> Value {
        json!({
            "metadata": { "name": name, "namespace": namespace, "labels": { "app": app } },
            "spec": { "containers": [{ "ports": [{ "name": "pulse", "containerPort": 8082 }] }] },
            "status": { "podIP": address },
        })
    }

    fn world(ingress: Value) -> World {
        let policy = json!({
            "metadata": { "namespace": "system" },
            "spec": { "podSelector": { "matchLabels": { "app": "host" } }, "policyTypes": ["Ingress"], "ingress": ingress },
        });
        World {
            pods: vec![
                pod("a", "system", "10.0.0.1", "host"),
                pod("b", "system", "10.0.0.2", "host"),
                pod("c", "other", "10.0.0.3", "host"),
            ],
            namespaces: vec![json!({ "metadata": { "name": "other", "labels": { "metrics": "enabled" } } })],
            policies: vec![policy],
        }
    }

    #[test]
    fn replicas_reach_each_other_and_nobody_else_does() {
        let rules = world(
            json!([{ "ports": [{ "port": "pulse" }], "from": [{ "podSelector": { "matchLabels": { "app": "host" } } }] }]),
        );
        let text = rules.rules().unwrap();
        assert!(text.contains("-A WINDLASS-POLICY -d 10.0.0.1 -j WL-IN-0\n"), "{text}");
        assert!(text.contains("-A WL-IN-0 -s 10.0.0.2/32 -p tcp --dport 8082 -j RETURN\n"), "{text}");
        assert!(text.contains("-A WL-IN-0 -j DROP\n"), "{text}");
        // The third is of another namespace: no policy selects it, and it is no peer.
        assert!(!text.contains("10.0.0.3"), "{text}");
    }

    #[test]
    fn a_namespace_is_chosen_by_its_labels_and_no_peer_is_everybody() {
        let text = world(json!([
            { "ports": [{ "port": 8443 }], "from": [{ "namespaceSelector": { "matchLabels": { "metrics": "enabled" } } }] },
            { "ports": [{ "port": 8081 }] },
        ]));
        let text = text.rules().unwrap();
        assert!(text.contains("-A WL-IN-1 -s 10.0.0.3/32 -p tcp --dport 8443 -j RETURN\n"), "{text}");
        assert!(text.contains("-A WL-IN-1 -p tcp --dport 8081 -j RETURN\n"), "{text}");
    }

    #[test]
    fn what_is_not_understood_is_no_silence() {
        let selector = json!({ "matchExpressions": [{ "key": "app", "operator": "Exists" }] });
        assert!(world(json!([{ "from": [{ "podSelector": selector }] }])).rules().is_err());
    }
}
