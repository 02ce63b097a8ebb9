"""What a node is busy with, and how it reaches the store of runs."""

import time

from laser.cluster.node_figures import NodeFigures, node_figures, of_nodes


def test_a_node_gives_its_means_since_the_last_call():
    with node_figures("here") as node:
        first = node.take()
        sum(range(2_000_000))
        time.sleep(0.05)
        second = node.take()
    assert (
        first.keys()
        == second.keys()
        >= {
            "system/here/cpu_utilization_percentage",
            "system/here/system_memory_usage_megabytes",
            "system/here/network_receive_megabytes",
        }
    )
    assert 0 <= second["system/here/cpu_utilization_percentage"] <= 100
    assert second["system/here/system_memory_usage_megabytes"] > 10
    assert second["system/here/network_receive_megabytes"] >= 0


def test_samples_are_taken_meanwhile_and_end_with_the_block():
    figures = NodeFigures("here", sample_seconds=0.01)
    time.sleep(0.1)
    assert figures._num_samples > 1
    figures.close()
    assert not figures._thread.is_alive()


def test_nodes_that_workers_report_are_told_apart_and_named_once():
    reports = [{"loss": 1.0, "system/a/cpu": 10.0}, {"loss": 1.0, "system/a/cpu": 20.0}, {"system/b/cpu": 30.0}]
    assert of_nodes(reports) == {"system/a/cpu": 10.0, "system/b/cpu": 30.0}
