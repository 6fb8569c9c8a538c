"""The course's write-up as one page of HTML, made of what run folders say about themselves.

found (reads run folders) -> sections (what each part owes) -> page (what is shown, and what is missing); plan (which runs the course asks for).
"""
