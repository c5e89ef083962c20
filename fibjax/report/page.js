'use strict';
// Sliders: the frames stand in a template; the page shows one of them.
for (const slider of document.querySelectorAll('.slider')) {
  const frames = slider.querySelector('template').content.children;
  const images = slider.querySelectorAll('img');
  const range = slider.querySelector('input[type=range]');
  const place = slider.querySelector('output');
  const show = () => {
    const frame = frames[range.value];
    images.forEach((image, k) => {
      image.src = frame.children[k].src;
      image.alt = frame.children[k].alt;
    });
    place.textContent = frame.title;
    range.setAttribute('aria-valuetext', frame.title);
  };
  range.addEventListener('input', show);
  slider.querySelector('.control').hidden = false;
  show();
}
// Folded tables are printed in full.
let opened = [];
addEventListener('beforeprint', () => {
  opened = [...document.querySelectorAll('details:not([open])')];
  opened.forEach((part) => { part.open = true; });
});
addEventListener('afterprint', () => {
  opened.forEach((part) => { part.open = false; });
});
