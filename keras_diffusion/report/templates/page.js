// Two menus choose the runs that are compared; animations can be paused; on paper nothing is folded up. Everything shown is in the page already.
(() => {
  const pause = ({ target }) => {
    if (!target.matches('.pause')) return;
    const picture = target.closest('figure').querySelector('picture');
    const [still, image] = [picture.querySelector('source'), picture.querySelector('img')];
    const paused = target.textContent === 'Play';
    image.dataset.moving ??= image.src;
    image.src = paused ? image.dataset.moving : still.srcset;
    target.textContent = paused ? 'Pause' : 'Play';
  };
  const offerPause = () => {
    const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
    for (const button of document.querySelectorAll('.pause')) button.hidden = still;
  };
  document.addEventListener('click', pause);
  offerPause();
  addEventListener('beforeprint', () => {
    for (const details of document.querySelectorAll('details')) details.open = true;
    for (const button of document.querySelectorAll('.pause')) if (button.textContent === 'Pause') button.click();
  });

  const form = document.querySelector('.choice');
  if (!form) return;
  const pairs = JSON.parse(document.getElementById('pairs').textContent);

  const differences = () => {
    for (const row of document.querySelectorAll('#side-A tr')) {
      const other = document.querySelector(`#side-B tr[data-fact="${row.dataset.fact}"]`);
      const differs = row.cells[1].textContent !== other.cells[1].textContent;
      row.classList.toggle('differs', differs);
      other.classList.toggle('differs', differs);
    }
  };

  const name = (run) => form.A.options[run].dataset.run;

  const curves = (pair, first, second) => {
    document.getElementById('same-run').hidden = first !== second;
    document.querySelector('.curves').hidden = !pair; // a run beside itself, or of another part where there are many
    document.getElementById('same-noise').hidden = !pair?.same_noise;
    if (!pair) return;
    document.getElementById('curves').src = pair.src;
    document.querySelector('.key.one').textContent = name(first);
    document.querySelector('.key.other').textContent = name(second);
    document.getElementById('incomparable').hidden = pair.comparable;
  };

  const show = () => {
    const [a, b] = [form.A.value, form.B.value].map(Number);
    for (const [side, run] of [['A', a], ['B', b]]) {
      const copy = document.getElementById(`run-${run}`).content.cloneNode(true);
      document.getElementById(`side-${side}`).replaceChildren(copy);
    }
    const [first, second] = [Math.min(a, b), Math.max(a, b)];
    curves(pairs[[first, second]], first, second);
    differences();
    offerPause();
  };

  document.addEventListener('click', ({ target }) => {
    const pair = JSON.parse(target.dataset?.pair ?? '[]');
    const options = [...form.A.options];
    pair.forEach((run, k) => {
      form[['A', 'B'][k]].value = options.findIndex((option) => option.dataset.run === run);
    });
    if (pair.length) show();
  });
  form.addEventListener('change', show);
  form.hidden = false;
  show(); // a browser may have kept an earlier choice
})();
