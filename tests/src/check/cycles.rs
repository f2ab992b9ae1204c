//! Cycles in a graph of "must come before".

use std::collections::VecDeque;

use super::Nanos;

/// Demands between transactions, numbered from 0, and instants between them.
#[derive(Debug)]
pub struct Graph {
    transactions: usize,
    /// By node: the nodes that come after it, and why.
    after: Vec<Vec<(usize, &'static str)>>,
}

impl Graph {
    pub fn new(transactions: usize) -> Self {
        Self { transactions, after: vec![Vec::new(); transactions] }
    }

    /// One transaction comes before another; before itself it need not.
    pub fn edge(&mut self, before: usize, after: usize, why: &'static str) {
        if before != after {
            self.after[before].push((after, why));
        }
    }

    /// Whatever ended before something else began comes before it. A chain of
    /// instants stands for these pairs, which would be too many.
    pub fn real_time(&mut self, spans: &[(Nanos, Nanos)], why: &'static str) {
        let mut ends: Vec<(Nanos, usize)> =
            spans.iter().enumerate().map(|(index, (_, end))| (*end, index)).collect();
        ends.retain(|(end, _)| *end != Nanos::MAX);
        ends.sort_unstable();
        let first = self.after.len();
        for (place, (_, index)) in ends.iter().enumerate() {
            let instant = first + place;
            self.after[*index].push((instant, why));
            let next = (place + 1 < ends.len()).then_some((instant + 1, why));
            self.after.push(next.into_iter().collect());
        }
        for (index, (begin, _)) in spans.iter().enumerate() {
            let before = ends.partition_point(|(end, _)| end < begin);
            if before > 0 {
                self.after[first + before - 1].push((index, why));
            }
        }
    }
}

/// A shortest cycle of each knot: its transactions, each with why it comes before
/// the next.
pub fn cycles(graph: &Graph, at_most: usize) -> Vec<Vec<(usize, &'static str)>> {
    let component = components(graph);
    let mut done = vec![false; graph.after.len()];
    let mut found = Vec::new();
    for start in 0..graph.transactions {
        let knot = component[start];
        if found.len() == at_most || done[knot] {
            continue;
        }
        if let Some(cycle) = cycle_through(graph, &component, start) {
            done[knot] = true;
            found.push(cycle);
        }
    }
    found
}

/// Numbers nodes so that those that reach each other have the same number: Tarjan's
/// algorithm, without recursion, since histories are long.
fn components(graph: &Graph) -> Vec<usize> {
    const NONE: usize = usize::MAX;
    let nodes = graph.after.len();
    let (mut order, mut low) = (vec![NONE; nodes], vec![0; nodes]);
    let (mut component, mut open) = (vec![NONE; nodes], Vec::new());
    let mut count = 0;
    let mut next_component = 0;
    for root in 0..nodes {
        if order[root] != NONE {
            continue;
        }
        let mut path = vec![(root, 0)];
        while let Some((node, edge)) = path.pop() {
            if edge == 0 {
                order[node] = count;
                low[node] = count;
                count += 1;
                open.push(node);
            }
            if let Some((next, _)) = graph.after[node].get(edge).copied() {
                path.push((node, edge + 1));
                if order[next] == NONE {
                    path.push((next, 0));
                } else if component[next] == NONE {
                    low[node] = low[node].min(order[next]);
                }
                continue;
            }
            if low[node] == order[node] {
                while let Some(member) = open.pop() {
                    component[member] = next_component;
                    if member == node {
                        break;
                    }
                }
                next_component += 1;
            }
            if let Some((parent, _)) = path.last() {
                low[*parent] = low[*parent].min(low[node]);
            }
        }
    }
    component
}

/// A shortest way from a node back to it.
fn cycle_through(
    graph: &Graph,
    component: &[usize],
    start: usize,
) -> Option<Vec<(usize, &'static str)>> {
    let mut came_from: Vec<Option<(usize, &'static str)>> = vec![None; graph.after.len()];
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for &(next, why) in &graph.after[node] {
            if component[next] != component[start] || came_from[next].is_some() {
                continue;
            }
            came_from[next] = Some((node, why));
            if next != start {
                queue.push_back(next);
                continue;
            }
            let mut path = Vec::new();
            let mut at = start;
            while let Some((before, why)) = came_from[at] {
                path.push((before, why));
                at = before;
                if at == start {
                    break;
                }
            }
            path.reverse();
            // Instants are no transactions.
            path.retain(|(node, _)| *node < graph.transactions);
            return Some(path);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knots_are_found_and_a_shortest_cycle_of_each_is_shown() {
        let mut graph = Graph::new(7);
        for (before, after) in [(0, 1), (1, 2), (2, 3), (3, 1), (3, 4), (4, 5), (5, 4), (6, 0)] {
            graph.edge(before, after, "before");
        }
        let found = cycles(&graph, 10);
        let nodes: Vec<Vec<usize>> =
            found.iter().map(|cycle| cycle.iter().map(|(node, _)| *node).collect()).collect();
        assert_eq!(nodes, [vec![1, 2, 3], vec![4, 5]]);
    }

    #[test]
    fn real_time_orders_what_does_not_overlap_and_nothing_else() {
        let spans = [(0, 10), (5, 20), (11, 15), (30, Nanos::MAX), (31, 32)];
        let contradicts = |before, after| {
            let mut graph = Graph::new(spans.len());
            graph.real_time(&spans, "ended before");
            graph.edge(before, after, "before");
            !cycles(&graph, 1).is_empty()
        };
        assert!(contradicts(2, 0) && contradicts(3, 1) && contradicts(4, 2));
        assert!(!contradicts(1, 0) && !contradicts(2, 1) && !contradicts(4, 3));
        assert!(!contradicts(0, 2));
    }
}
