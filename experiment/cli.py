"""The scripts test-task.py and test-task-after.py: what is asked for in, result files and tables out."""

from argparse import ArgumentParser

from experiment.arguments import after_parser, experiment, parser, sensible


def test_task() -> None:
    """Score a model as it is."""
    _run(parser())


def test_task_after() -> None:
    """Edit a model, measure how well the edits took, and score it."""
    _run(after_parser())


def _run(p: ArgumentParser) -> None:
    args = p.parse_args()
    asked = sensible(experiment(args))
    from experiment.models import Models  # these bring torch: what is wrong with the words is said before
    from experiment.plan import resolve
    from experiment.run import run
    from experiment.show import text

    models = Models()
    plan = resolve(asked, models)
    for event in run(plan, models):
        print(text(event, plan, args.all_metrics), flush=True)
    if asked.edit and asked.edit.save_model:
        print(f"edited model -> {asked.edit.save_model}")
