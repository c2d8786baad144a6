"""Pictures, tables, pages and wandb: the only place that knows matplotlib, rich, jinja2 and wandb."""
