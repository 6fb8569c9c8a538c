"""A figure of a run as the template shows it."""

from keras_diffusion.report import pictures, words

_KINDS = {"architecture": "drawing", "loss": "drawing", "sampling": "animation"}


def figure(run, picture, *, owed, store):
    """What <figure> needs.

    Args:
        run: `found.FoundRun`.
        picture: `found.Picture` of it, readable.
        owed: `sections.Owed`, which says what such a picture shows.
        store: `pictures.Files` or `pictures.Inline`.
    """
    kind, caption = _KINDS.get(picture.name, "grid"), _caption(picture)
    return {
        "image": pictures.shown(store, run, picture),
        "still": pictures.still(store, run, picture) if kind == "animation" else None,
        "kind": kind,
        "caption": caption,
        "alt": f"{owed.alt}. {words.label(run)}: {caption}.",
        "link": store.linked,
    }


def _caption(picture):
    epoch = f"epoch {picture.epoch}"
    says_when = epoch in picture.caption or picture.name in ("architecture", "noising")
    return picture.caption if says_when or not picture.epoch else f"{picture.caption}, {epoch}"
