"""What ComfyUI's log tells of packs that it could not load."""

from __future__ import annotations

from handler.engine.import_faults import failed_imports, not_loaded, same_pack

LOG = """\
Starting server
Traceback (most recent call last):
  File "/c/nodes.py", line 1, in load
    run()
ModuleNotFoundError: No module named 'cv2.aruco'

Cannot import /c/custom_nodes/needs-cv module for custom nodes: No module named 'cv2.aruco'
Traceback (most recent call last):
  File "/c/x.py", line 1
KeyError: 'a'
During handling of the above exception, another exception occurred:
Traceback (most recent call last):
  File "/c/y.py", line 2
my.pkg.Broken: it broke
Cannot import /c/custom_nodes/chained module for custom nodes: it broke
Skip /c/custom_nodes/empty module for custom nodes due to the lack of NODE_CLASS_MAPPINGS
Error while calling comfy_entrypoint in /c/custom_nodes/v3: no loop
Import times for custom nodes:
   0.0 seconds: /c/custom_nodes/websocket_image_save.py
   0.0 seconds (IMPORT FAILED): /c/custom_nodes/empty
   0.1 seconds (IMPORT FAILED): /c/custom_nodes/v3
   0.1 seconds (IMPORT FAILED): /c/custom_nodes/needs-cv
   0.4 seconds (IMPORT FAILED): /c/custom_nodes/chained
   1.4 seconds: /c/custom_nodes/good
""".splitlines()


def test_each_failed_pack_is_named_with_its_error():
    """The exception with its type, and the traceback that belongs to it."""
    found = {fault.name: fault for fault in failed_imports(LOG)}

    assert {name: fault.error for name, fault in found.items()} == {
        "empty": "due to the lack of NODE_CLASS_MAPPINGS",
        "v3": "no loop",
        "needs-cv": "ModuleNotFoundError: No module named 'cv2.aruco'",
        "chained": "my.pkg.Broken: it broke",
    }
    assert "the module cv2 is not installed" in found["needs-cv"].hint
    assert any("/c/x.py" in line for line in found["chained"].traceback)
    assert not any("/c/nodes.py" in line for line in found["chained"].traceback)


def test_a_log_with_prefixes_is_read_too():
    """Some launchers put a time before each line."""
    lines = [f"[12:00:00] {line}" for line in LOG]
    assert {"empty", "v3", "needs-cv", "chained"} == {f.name for f in failed_imports(lines)}


def test_a_cut_log_still_names_the_pack():
    """Without the traceback the name is all there is."""
    faults = failed_imports(LOG[-3:])
    assert [fault.name for fault in faults] == ["needs-cv", "chained"]
    assert "no longer" in faults[0].error


def test_a_failure_before_the_list_is_seen():
    """A boot that ended early never printed the list."""
    assert [fault.name for fault in failed_imports(LOG[:8])] == ["needs-cv"]


def test_an_expected_pack_that_was_not_loaded_is_at_fault():
    """Not in the log, no node: the folder is not where ComfyUI looks."""
    seen, modules = ["Good", "needs-cv"], ["custom_nodes.by-node", "nodes", "custom_nodes.x.py"]
    faults = not_loaded(["good", "by-node", "absent", "needs-cv", "x"], seen, modules)

    assert [fault.name for fault in faults] == ["absent"]
    assert "did not load" in faults[0].error
    assert not_loaded([], seen, modules) == []


def test_names_of_a_pack_may_differ_in_case_and_ending():
    """The log has a file's name, the manifest a repository's."""
    assert same_pack("My-Pack", "my-pack.py")
    assert not same_pack("my-pack", "my_pack")
