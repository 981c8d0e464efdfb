"""This folder as a Hugging Face Space, or as a page of its own: what is reviewed lies in a folder of a run.

    REVIEW_RUN=run python app.py          # on this machine: http://127.0.0.1:7860

Environment: REVIEW_RUN (the folder of the run, `run` beside this file by default), REVIEW_USERS (name:hash lines;
needed where others reach the page, as on a Space). `granted data review` makes both. Tests: tests/test_review_page.py.
"""

import importlib.util
import os
import sys
from pathlib import Path


HERE = Path(__file__).resolve().parent


def main():
    """Serve the page; what is wrong is one line."""
    # The folder is loaded as a package of its own, whatever its name is and whether granted is installed or not.
    name = "granted_review_space"
    spec = importlib.util.spec_from_file_location(name, HERE / "__init__.py", submodule_search_locations=[str(HERE)])
    sys.modules[name] = importlib.util.module_from_spec(spec)
    load = importlib.import_module
    login, refusal = load(f"{name}.login"), load(f"{name}.refusal")
    host, port = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), os.environ.get("GRADIO_SERVER_PORT")
    try:
        users = login.Users.from_environment()
        login.require_login(host, users)  # before the libraries of the page, which take seconds
        review = load(f"{name}.reviewing").Review(os.environ.get("REVIEW_RUN", HERE / "run"))
        load(f"{name}.page").serve(review, host, int(port) if port else None, users)
    except refusal.ReviewError as error:
        sys.exit(f"review: {error}")


if __name__ == "__main__":
    main()
