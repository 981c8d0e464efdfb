"""People verify instances of a benchmark on a page. This folder is a Hugging Face Space, too, and stands alone."""
